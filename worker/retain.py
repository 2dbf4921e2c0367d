"""Owns the text of `--retain`: how many ended jobs are kept, and for how long."""

import re

from wire.limits import LimitError

from .registry import Retention

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


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
            seconds = float(int(match[1]) * _UNITS[match[2]])
        else:
            count = int(match[1])
    return Retention(count, seconds)
