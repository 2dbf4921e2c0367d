"""Owns the peer that everybody has: OpenSSH on loopback, with a configuration, keys and a port of its own."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

#: Longest wait for sshd to listen, in seconds.
PATIENCE = 10.0
#: Where sshd, as root, wants an empty directory (sshd(8)).
PRIVILEGE_SEPARATION = Path("/run/sshd")


@dataclass(frozen=True, slots=True)
class Ssh:
    """A server that runs; commands for it are made by `command`."""

    folder: Path
    port: int

    def command(self, remote: str, *options: str) -> list[str]:
        """A local command that runs a remote one, over a connection of its own."""
        told = [
            "IdentitiesOnly=yes", "BatchMode=yes", "StrictHostKeyChecking=yes", "ControlPath=none",
            "GlobalKnownHostsFile=none",
            f"UserKnownHostsFile={self.folder / 'known_hosts'}", "LogLevel=ERROR",
        ]  # fmt: skip
        return [
            "ssh", "-F", "none", "-i", str(self.folder / "user"), "-p", str(self.port),
            *(part for option in told for part in ("-o", option)), *options,
            f"{getpass.getuser()}@127.0.0.1", remote,
        ]  # fmt: skip


@contextmanager
def open_ssh(folder: Path) -> Iterator[Ssh | str]:
    """Run an sshd until the block ends; a sentence in its place says why there is none."""
    sshd = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if sshd is None or shutil.which("ssh") is None:
        yield "OpenSSH is missing: install openssh-server"
        return
    folder.mkdir()
    made = os.geteuid() == 0 and not PRIVILEGE_SEPARATION.exists()
    if made:
        PRIVILEGE_SEPARATION.mkdir(mode=0o755)
    try:
        port = _configure(folder)
        with subprocess.Popen(
            [sshd, "-D", "-f", folder / "sshd_config", "-E", folder / "sshd.log"], stdin=subprocess.DEVNULL
        ) as process:
            try:
                ssh = Ssh(folder, port)
                problem = _wait(ssh, process)
                yield problem or ssh
            finally:
                process.terminate()
    finally:
        if made:
            PRIVILEGE_SEPARATION.rmdir()


def _configure(folder: Path) -> int:
    for name in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", folder / name], check=True
        )
    (folder / "authorized_keys").write_text((folder / "user.pub").read_text())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    config = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": folder / "host",
        "PidFile": "none",
        "AuthorizedKeysFile": folder / "authorized_keys",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "UsePAM": "no",
        "StrictModes": "no",
        "PrintMotd": "no",
        "MaxStartups": "200",
    }
    (folder / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in config.items()))
    return port


def _wait(ssh: Ssh, process: subprocess.Popen[bytes]) -> str | None:
    """Wait until it lets us in; what keeps it from that, if anything does."""
    deadline = time.monotonic() + PATIENCE
    said = ""
    while process.poll() is None and time.monotonic() < deadline:
        tried = subprocess.run(
            ssh.command("true"), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if tried.returncode == 0:
            return None
        said = tried.stderr.strip()
        time.sleep(0.1)
    said = said or (ssh.folder / "sshd.log").read_text().strip()
    return f"sshd does not let us in: {said.splitlines()[-1] if said else 'it says nothing'}"
