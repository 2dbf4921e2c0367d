"""Owns how certificates and keys reach the disk: never over an existing file unasked, keys never readable."""

import contextlib
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

from certs.errors import CertsError


def check_free(directory: Path, names: Iterable[str]) -> None:
    """Raise CertsError if ``directory`` holds any of ``names``, dangling links included."""
    taken = [name for name in names if os.path.lexists(directory / name)]
    if taken:
        raise CertsError(
            f"{directory} already holds {', '.join(taken)}: name another directory with --dir, "
            "or replace the files with --force."
        )


def install(directory: Path, files: Mapping[str, bytes], *, force: bool = False) -> list[Path]:
    """Write ``files`` (name to content) into ``directory``, which is made, with mode 0700, if it is missing.

    A name ending in ``.key`` gets mode 0600 at its creation, any other 0644. If anything goes wrong, the
    files made so far are removed. With ``force``, the renames over existing files begin once every new one
    is on the disk: a reader sees an old file or a new one, never half of one.

    Returns:
        The paths, in the order of ``files``.

    Raises:
        CertsError: a file exists and ``force`` is not given, or the operating system refused.
    """
    token = secrets.token_hex(4)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.ExitStack() as undo:
            written = []
            for name, content in files.items():
                path = directory / (f".{name}.{token}" if force else name)
                descriptor = _create(path, 0o600 if name.endswith(".key") else 0o644)
                undo.callback(path.unlink, missing_ok=True)
                with open(descriptor, "wb") as file:  # noqa: PTH123 - of a descriptor, not of a path
                    file.write(content)
                    file.flush()
                    os.fsync(descriptor)
                written.append(path)
            paths = [directory / name for name in files]
            if force:
                for staged, path in zip(written, paths, strict=True):
                    staged.replace(path)
            undo.pop_all()
    except FileExistsError as error:
        raise CertsError(f"{error.filename} already exists: it was left as it is.") from error
    except OSError as error:
        raise CertsError(f"cannot write {error.filename or directory}: {error.strerror}.") from error
    return paths


def _create(path: Path, mode: int) -> int:
    # O_EXCL refuses existing files and follows no link; the mode given here holds from the first instant.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    os.fchmod(descriptor, mode)  # the umask may have taken from it; it cannot have added
    return descriptor
