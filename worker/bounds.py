"""Owns the bounds that one server sets to what its clients may cost it, and their defaults.

README has them all in a table, and says what a client is told that meets one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Final

from cyclopts import Parameter, Token

from wire.durations import parse_seconds
from wire.frames import MAX_FRAME_BYTES
from wire.limits import LimitError, parse_bytes

#: The largest frame that a client may send who starts no jobs: no other request is large, in bytes.
SMALL_FRAME_BYTES: Final = 64 * 1024
#: Of this many connections, Users leave one to Admins.
ADMINS_SHARE: Final = 8


def _size(_: object, tokens: Sequence[Token]) -> int:
    try:
        return int(parse_bytes("it", tokens[0].value))
    except LimitError:
        raise ValueError("write a number of bytes, such as 65536, 64K or 3M") from None


def _seconds(_: object, tokens: Sequence[Token]) -> float:
    try:
        return parse_seconds("it", tokens[0].value)
    except LimitError:
        raise ValueError("write 90s, 5m or 2h, or a number of seconds") from None


Duration = Annotated[float, Parameter(converter=_seconds, metavar="TIME")]
Size = Annotated[int, Parameter(converter=_size, metavar="BYTES")]


@Parameter(name="*")
@dataclass(frozen=True)
class Bounds:
    """What clients may cost; each is refused beyond its bound with `busy`, unless it says otherwise.

    Parameters
    ----------
    max_connections:
        How many clients may be connected; of these, an eighth is kept for Admins.
    max_connections_per_identity:
        How many connections one identity, the name and role in its certificate, may have of them.
    max_waiting:
        How many connections may wait for their TLS handshake, or for their first message; past that,
        the address that has most of them loses its oldest.
    max_handshakes:
        How many may be between the beginning of their handshake and their hello; past that, the address
        that has most of them loses its oldest, too.
    handshake_timeout:
        How long a connection may take up to its hello.
    max_requests:
        How many requests one connection may have under way.
    max_requests_per_identity:
        How many requests one identity may have under way on all its connections.
    max_jobs:
        How many jobs may run, those being started included.
    max_argument_bytes:
        How much a job's arguments, environment and directory may weigh together: 3145728, 3M.
    max_frame:
        The largest frame that a client may send; one whose role starts no jobs may send 64K at most.
    """

    max_connections: int = 1024
    max_connections_per_identity: int = 256
    max_waiting: int = 8192
    max_handshakes: int = 512
    handshake_timeout: Duration = 10.0
    max_requests: int = 256
    max_requests_per_identity: int = 2048
    max_jobs: int = 1000
    max_argument_bytes: Size = 3 * 1024 * 1024
    max_frame: Size = MAX_FRAME_BYTES

    def check(self) -> None:
        """Raise LimitError, with a sentence for the operator, if a bound makes no sense."""
        for field in fields(self):
            value = getattr(self, field.name)
            least, most = _RANGES.get(field.name, (1, 1_000_000))
            if not least <= value <= most:
                flag = "--" + field.name.replace("_", "-")
                raise LimitError(f"{flag} {value:g} must be from {least:,} to {most:,}.")

    @property
    def kept_for_admins(self) -> int:
        """Connections that Users leave to Admins."""
        return self.max_connections // ADMINS_SHARE or int(self.max_connections > 1)


DEFAULTS: Final = Bounds()

_RANGES: dict[str, tuple[int, int]] = {
    "handshake_timeout": (1, 3600),
    "max_argument_bytes": (1024, MAX_FRAME_BYTES),
    "max_frame": (4096, MAX_FRAME_BYTES),
}
