"""Owns what is said of private keys, and of their directories, that other users of this host can get at.

It stands on the command line's way to its first byte, so it imports the standard library and nothing else.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

#: Reading a key is for its owner and, as servers are often set up, its group; writing it for its owner alone.
_OPEN_KEY: Final = stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP


def exposures(directory: Path, *keys: str) -> Iterator[str]:
    """A sentence for each of ``keys`` in a directory, and each directory above, that is open to others.

    What is not there, or may not be looked at, is not told of.
    """
    for path in (directory / key for key in keys):
        mode = _mode(path)
        if mode & _OPEN_KEY:
            how = "read" if mode & stat.S_IROTH else "changed"
            yield f"{path} can be {how} by other users of this host: run `chmod 600 {path}`."
    place = Path(os.path.realpath(directory))
    for folder in (place, *place.parents):
        mode = _mode(folder)
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            yield (
                f"other users of this host can put files of their own into {folder}, or take yours away: "
                f"run `chmod go-w {folder}`."
            )


def _mode(path: Path) -> int:
    try:
        return os.stat(path).st_mode  # noqa: PTH116  # without the cost of a Path's own
    except (OSError, ValueError):
        return 0
