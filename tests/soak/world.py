"""Owns what all clients of one server of the soak share."""

from dataclasses import dataclass

from tests.soak.model import Model
from tests.soak.watch import Watch


@dataclass
class World:
    """What all clients of one server share.

    Args:
        model: what they know.
        watch: what they do.
        most: bytes that a job of the mixture prints at most.
        hasty: whether the server gives readers up so soon that a busy one of ours may be meant.
        kinds: the limits that the host has.
    """

    model: Model
    watch: Watch
    most: int
    hasty: bool = False
    kinds: frozenset[str] = frozenset()
    #: No new steps begin.
    over: bool = False
