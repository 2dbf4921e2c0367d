"""Owns how many ended jobs are kept, and for how long, and the text of `--retain` that says so."""

import re
from dataclasses import dataclass
from typing import Final

from wire.durations import UNIT_SECONDS
from wire.limits import LimitError


@dataclass(frozen=True, slots=True)
class Retention:
    """How long ended jobs are kept; None is for the server's lifetime.

    Args:
        count: so many of them at most, the last that ended.
        seconds: so long after their end.
    """

    count: int | None = None
    seconds: float | None = None


FOREVER: Final = Retention()


def parse_retention(text: str | None) -> Retention:
    """Read ``1000`` (jobs), ``24h`` (after their end; s, m, h or d), or both: ``1000,24h``.

    Raises:
        LimitError: with a sentence that names the flag.
    """
    count: int | None = None
    seconds: float | None = None
    for part in [] if text is None else text.split(","):
        match = re.fullmatch(r"(\d{1,12})([smhd]?)", part.strip(), re.ASCII)
        if match is None or (seconds if match[2] else count) is not None:
            raise LimitError(f"--retain {text!r} is no number of jobs, nor a time such as 24h, nor 1000,24h.")
        if match[2]:
            seconds = float(int(match[1]) * UNIT_SECONDS[match[2]])
        else:
            count = int(match[1])
    return Retention(count, seconds)
