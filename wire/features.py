"""Owns the features by which worker.v1 grows: what a peer may announce at first (PROTOCOL.md, "Features").

A feature is in use on a connection once both sides have announced it. Only then may one side send what the
other would not understand, or would be wrong to ignore. A peer that announces none speaks version 1 as it
first was.
"""

import enum
from collections.abc import Iterable
from typing import Final


class Feature(enum.StrEnum):
    """Every feature that this code has; a peer's others mean nothing to it."""

    #: The client takes codes, kinds, statuses and reasons that it does not know, and treats them by class.
    OPEN_VALUES = "open_values"
    #: A start may name its job's id, and be asked for again.
    START_ID = "start_id"


#: What both ends of ours announce.
FEATURES: Final = tuple(Feature)


class Agreement:
    """What both ends of one connection have announced."""

    def __init__(self) -> None:
        #: The features in use; none until the client's hello.
        self.features: frozenset[str] = frozenset()
        self._offered: frozenset[str] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the client's next message may be its hello."""
        return self._offered is not None

    def offer(self, features: Iterable[str] | None) -> None:
        """Take what the server's hello announces; None if it is of a server that knows of no features."""
        self._offered = None if features is None else frozenset(features)

    def answer(self, features: Iterable[str]) -> None:
        """Take what the client's hello announces."""
        self.features = (self._offered or frozenset()).intersection(features)

    def close(self) -> None:
        """The client has spoken: what is agreed stays so."""
        self._offered = None
