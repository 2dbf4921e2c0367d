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
        kinds: the limits that the host has.
        most: bytes that a job of the mixture prints at most.
    """

    model: Model
    watch: Watch
    kinds: frozenset[str]
    most: int
    #: No new steps begin.
    over: bool = False
