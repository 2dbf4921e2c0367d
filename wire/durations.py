"""Owns how people write a length of time: ``90``, ``90s``, ``5m``, ``2h``, ``1d``."""

import math
import re
from typing import Final

from .limits import LimitError

#: What is said of a text that is none, behind the name of what it was given for.
NO_DURATION: Final = "{!r} is no length of time: write 90s, 5m or 2h, or a number of seconds."
#: By unit; a number without one is in seconds.
UNIT_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION: Final = re.compile(r"(\d+\.?\d*|\.\d+)([smhd]?)", re.ASCII)


def parse_seconds(flag: str, text: str, *, zero: bool = True) -> float:
    """Read a length of time; a bare number is seconds.

    Args:
        flag: what the text was given for, for the sentence.
        text: what people wrote.
        zero: whether no time at all makes sense.

    Raises:
        LimitError: with a sentence that names the flag.
    """
    match = _DURATION.fullmatch(text.strip().lower())
    seconds = float(match[1]) * UNIT_SECONDS[match[2]] if match else math.inf
    if not math.isfinite(seconds):
        raise LimitError(f"{flag} {NO_DURATION.format(text)}")
    if not seconds and not zero:
        raise LimitError(f"{flag} must be more than zero; leave it out for no limit.")
    return seconds
