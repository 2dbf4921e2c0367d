"""Owns what conversations share: with what they are held, what they say, and what goes over the wire."""

import json
import sys
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from client.core import Core
from tests.peers.any_client import AnyClient, connected
from wire.connection import Connection
from wire.errors import RequestError
from wire.jobs import JobStatus
from wire.messages import Failure

#: Ids of no job: whoever asks for these sends a method, and a type of message, that no server knows.
NO_METHOD, NO_TYPE = "an unknown method", "an unknown type"


@dataclass(frozen=True)
class Setting:
    """What a conversation is held with.

    Args:
        kind: of client: ``blocking`` or ``trio``.
        certs: the directory of the certificates.
        usual: address of a server with room, which gives a stream up after a second, or what is one here.
        small: of one that keeps little output.
        strict: of one that starts nothing, and lets few in.
        short: names whose certificates end soon, and then later; the first may have ended before it is used.
        slow: how many times slower than a common machine this one is.
    """

    kind: str
    certs: str
    usual: str
    small: str
    strict: str
    short: list[str]
    slow: int

    def client(
        self, address: str, identity: str = "admin", patience: float = 0
    ) -> AbstractAsyncContextManager[AnyClient]:
        """A client, which does not come back after a cut if it is not told to."""
        return connected(self.kind, address, Path(self.certs), identity, patience=patience)


@dataclass
class Wire:
    """What went over every connection of ours: the codes that were heard, the methods that were called."""

    heard: set[str]
    called: set[str]

    def watch(self) -> None:
        """Begin to; and send nonsense where NO_METHOD and NO_TYPE ask for it."""
        next_event, begin, data_to_send = Connection.next_event, Core.begin, Core.data_to_send

        def heard(connection: Connection) -> Any:
            event = next_event(connection)
            if isinstance(event, Failure):
                self.heard.add(str(event.code))
            return event

        def called(core: Core, method: str, params: Any) -> int:
            self.called.add(method)
            return begin(core, method, params)

        def sent(core: Core) -> bytes:
            data = data_to_send(core)
            if NO_METHOD.encode() in data:
                data = data.replace(b"query", b"qwery")
            if NO_TYPE.encode() in data:
                data = data.replace(b"request", b"require")
            return data

        for owner, name, call in (
            (Connection, "next_event", heard),
            (Core, "begin", called),
            (Core, "data_to_send", sent),
        ):
            setattr(owner, name, call)


#: Ours.
WIRE: Final = Wire(set(), set())


def tell(name: str, found: object = None) -> None:
    """Print what came of one thing."""
    sys.stdout.write(json.dumps([name, found]) + "\n")
    sys.stdout.flush()


async def refusal(call: Awaitable[object]) -> str:
    """The code with which a server refuses something."""
    try:
        await call
    except RequestError as error:
        return str(error.code)  # noqa: ASYNC910  # the call was a checkpoint
    return "nothing"


def told(job: JobStatus) -> dict[str, Any]:
    """What is the same of a job whenever it runs."""
    cause = job.cause
    return {
        "status": str(job.status),
        "exit_code": job.exit_code,
        "signal": job.signal,
        "cause": cause and str(cause.kind),
        "by": cause and cause.by,
        "ended": job.ended is not None,
        "output": job.output,
    }


async def read(client: AnyClient, job_id: str, **options: Any) -> list[Any]:
    """What a stream brings: the bytes of each stream, the range and reason of each gap, the job's end."""
    found: dict[int, bytes] = {}
    gaps = []
    async with client.stream(job_id, **options) as stream:
        while (piece := await stream.piece()) is not None:
            if hasattr(piece, "reason"):
                gaps.append([piece.offset, piece.size, str(piece.reason)])
            else:
                found[piece.stream] = found.get(piece.stream, b"") + piece.data
    shown = {number: data.decode() if len(data) < 100 else len(data) for number, data in found.items()}
    return [shown, gaps, told(stream.job)]
