"""Owns what a method is given by the session that it serves, and what it gives back."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeAlias

from certs.roles import Identity

from .audit import Trail
from .blocks import Chunk
from .output import Missing
from .registry import Registry


class Call(Protocol):
    """What a method is given by the session that it serves."""

    @property
    def identity(self) -> Identity:
        """Who asks."""

    @property
    def features(self) -> frozenset[str]:
        """The features that the client and this server both announced."""

    @property
    def registry(self) -> Registry:
        """The jobs."""

    @property
    def trail(self) -> Trail:
        """The request's audit trail."""

    def credit(self) -> int:
        """Bytes of output that may be sent now."""

    async def wait_credit(self) -> None:
        """Wait until there is some."""

    @property
    def stall(self) -> float:
        """Seconds that a stream with output to send waits for credit."""

    async def turn(self) -> None:
        """Wait for the turn to do what is costly, before the next checkpoint."""

    async def room(self) -> None:
        """Wait until there is room for a piece of output."""

    @property
    def alone(self) -> AbstractAsyncContextManager[object]:
        """Within it, a stream may hold a piece of output that has no room yet."""

    def output(self, piece: Chunk | Missing) -> None:
        """Send a piece of output, for which there must be credit, or say that it cannot be had."""


#: What a request leads to: builds the record of its reply, as things are when there is room to send it.
Answer: TypeAlias = Callable[[], object]
#: A request that was allowed, and what runs it.
Prepared: TypeAlias = Callable[[Call], Awaitable[Answer]]
Handler: TypeAlias = Callable[[Call, Any], Awaitable[Answer]]
