"""Owns what is told in place of values that came later: of the first ones in version 1, the nearest.

A peer that has not announced `open_values` takes a value that it does not know for nonsense. So it is told
the nearest one that it knows.
"""

import enum
from collections.abc import Mapping
from typing import Any, Final

from .errors import NEAREST_CODES, ErrorCode
from .jobs import CauseKind, Status
from .messages import GapReason

#: By kind of value: what came later, and what a peer is told in its place. All of today's are the first ones.
NEAREST: Final[Mapping[type[enum.Enum], Mapping[Any, enum.Enum]]] = {
    ErrorCode: NEAREST_CODES,
    CauseKind: {},
    Status: {},
    GapReason: {},
}


def nearest(value: enum.Enum) -> enum.Enum:
    """The value itself if it is one of the first ones, or the nearest of those."""
    return NEAREST.get(type(value), {}).get(value, value)
