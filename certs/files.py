"""Owns how certificates and keys reach the disk: never over an existing file unasked, keys never readable."""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from certs.errors import CertsError


def check_free(directory: Path, names: Iterable[str]) -> None:
    """Raise CertsError if ``directory`` holds any of ``names``, dangling links included."""
    taken = [name for name in names if os.path.lexists(directory / name)]
    if taken:
        cost = "; whatever the authority there has signed is then worth nothing" * ("ca.key" in taken)
        raise CertsError(
            f"{directory} already holds {', '.join(taken)}: name another directory with --dir, "
            f"or replace the files with --force{cost}."
        )


@contextlib.contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Keep other commands from changing ``directory`` meanwhile: none builds on what another replaces.

    Raises:
        CertsError: there is no such directory.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise CertsError(f"cannot use {directory}: {error.strerror}.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def install(
    directory: Path, files: Mapping[str, bytes], *, force: bool = False, secret: bool = False
) -> list[Path]:
    """Write ``files`` (name to content) into ``directory``, which is made, with mode 0700, if it is missing.

    A name ending in ``.key`` gets mode 0600 at its creation, and so does every one with ``secret``; any other
    0644. Files get their names once every one is on the disk: a reader sees an old file, a new one or none,
    never half of one. If anything goes wrong, those made so far are removed. ``force`` replaces what exists.

    Returns:
        The paths, in the order of ``files``.

    Raises:
        CertsError: a file exists and ``force`` is not given, or the operating system refused.
    """
    token = secrets.token_hex(4)
    try:
        _make(directory)
        with contextlib.ExitStack() as undo:
            staged = []
            for name, content in files.items():
                path = directory / f".{name}.{token}"
                descriptor = _create(path, 0o600 if secret or name.endswith(".key") else 0o644)
                undo.callback(path.unlink, missing_ok=True)
                with open(descriptor, "wb") as file:  # noqa: PTH123 - of a descriptor, not of a path
                    file.write(content)
                    file.flush()
                    os.fsync(descriptor)
                staged.append(path)
            paths = [directory / name for name in files]
            for temporary, path in zip(staged, paths, strict=True):
                if force:
                    temporary.replace(path)
                else:
                    _move_beside(temporary, path)
                    undo.callback(path.unlink, missing_ok=True)
            undo.pop_all()
    except FileExistsError as error:
        taken = error.filename2 or error.filename
        raise CertsError(f"{taken} already exists: it was left as it is.") from error
    except OSError as error:
        raise CertsError(f"cannot write {error.filename or directory}: {error.strerror}.") from error
    return paths


def _make(directory: Path) -> None:
    """Make a directory that is missing, and those above it, for us alone, whatever the umask says."""
    missing = [folder for folder in (directory, *directory.parents) if not os.path.lexists(folder)]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)
    if not missing:
        directory.mkdir(exist_ok=True)  # or say what is in the way


def _move_beside(temporary: Path, path: Path) -> None:
    """Rename, but never over a file that exists."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        raise
    except OSError:  # this file system has no hard links: hold the name with an empty file
        os.close(_create(path, 0o600))
        temporary.replace(path)
    else:
        temporary.unlink()


def _create(path: Path, mode: int) -> int:
    # O_EXCL refuses existing files and follows no link; the mode given here holds from the first instant.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    os.fchmod(descriptor, mode)  # the umask may have taken from it; it cannot have added
    return descriptor
