"""Owns the peer that runs containers: podman with runc, where both are installed."""

import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

NEEDED = ("podman", "runc", "busybox")


@dataclass(frozen=True, slots=True)
class Podman:
    """An image with nothing but a static busybox in it, in a storage of its own."""

    globals: tuple[str, ...]
    image: str

    def command(self, *argv: str) -> list[str]:
        """A local command that runs one of busybox's in a new container, which is removed after it."""
        options = ["--rm", "--network", "none"]
        return ["podman", *self.globals, "run", *options, self.image, "/busybox", *argv]


@contextmanager
def open_podman(folder: Path) -> Iterator[Podman | str]:
    """Make the image until the block ends; a sentence in its place says why there is none."""
    lacking = [name for name in NEEDED if shutil.which(name) is None]
    if lacking:
        yield f"not installed: {', '.join(lacking)}"
        return
    storage = folder / "podman"
    options = ("--runtime", "runc", "--root", str(storage / "root"), "--runroot", str(storage / "run"))
    archive = folder / "image.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(str(shutil.which("busybox")), "busybox")
    try:
        imported = _run("podman", *options, "import", "--quiet", str(archive), "bench:latest")
        podman = Podman(options, "bench:latest")
        tried = imported if imported.returncode else _run(*podman.command("true"))
        said = tried.stderr.strip().splitlines()
        yield f"podman cannot run here: {(said or ['it says nothing'])[-1]}" if tried.returncode else podman
    finally:
        _run("podman", *options, "system", "reset", "--force")


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
