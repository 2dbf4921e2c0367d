"""Owns how `stream` and `run` follow a job's output: which part is wanted, and what is said beside it."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter

from wire.durations import UNIT_SECONDS
from wire.messages import STDERR, STDOUT, Gap, GapReason

from ..blocking import Client, Stream
from . import streams
from .exits import UsageError
from .flags import Flag
from .render import text
from .waiting import Watch

_LOST: dict[str, str] = {
    GapReason.DROPPED: "were dropped by the server",
    GapReason.UNREADABLE: "cannot be read by the server",
    GapReason.REMOVED: "were removed with the job",
}
_POWERS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_FACTORS = {"": 1, "B": 1} | {
    unit + more: size for unit, size in _POWERS.items() for more in ("", "B", "I", "IB")
}
_UNIT_LETTERS = "KMGTIBkmgtib"
#: The largest number that goes over the wire.
_MOST = 2**63 - 1
_DIGITS = len(str(_MOST))


@Parameter(name="*")
@dataclass(frozen=True)
class Which:
    """Which part of a job's output is wanted.

    Parameters
    ----------
    follow:
        Go on until the job ends, as is the default; --no-follow ends where its output does now.
    offset:
        Begin at this byte of the output.
    tail:
        Begin with so many of the last lines.
    tail_bytes:
        Begin with so many of the last bytes: 4096, 1M.
    since:
        Begin with what came at this time or later: 2026-11-25T10:00:00Z, or an age such as 30s, 5m, 2h, 1d.
    stdout:
        What the job printed to stdout alone.
    stderr:
        What the job printed to stderr alone.
    """

    follow: Annotated[bool, Parameter(negative="--no-follow", show_default=False)] = True
    offset: Annotated[str | None, Parameter(metavar="BYTE")] = None
    tail: Annotated[str | None, Parameter(metavar="LINES")] = None
    tail_bytes: Annotated[str | None, Parameter(metavar="BYTES")] = None
    since: Annotated[str | None, Parameter(metavar="TIME")] = None
    stdout: Flag = False
    stderr: Flag = False

    def keywords(self, clock: Callable[[], float] = time.time) -> dict[str, Any]:
        """What `Client.stream` takes, checked; ``clock`` is that of the server, by which an age is meant."""
        starts = [
            flag
            for flag, text in (
                ("--offset", self.offset),
                ("--tail", self.tail),
                ("--tail-bytes", self.tail_bytes),
                ("--since", self.since),
            )
            if text is not None
        ]
        if len(starts) > 1:
            raise UsageError(f"{starts[0]} and {starts[1]} cannot be given together.")
        if self.stdout and self.stderr:
            raise UsageError("--stdout and --stderr cannot be given together; without them, both are shown.")
        keywords: dict[str, Any] = {"follow": self.follow}
        if self.offset is not None:
            keywords["offset"] = _bytes("--offset", self.offset)
        if self.tail is not None:
            keywords["tail_lines"] = _lines("--tail", self.tail)
        if self.tail_bytes is not None:
            keywords["tail_bytes"] = _bytes("--tail-bytes", self.tail_bytes)
        if self.since is not None:
            keywords["since"] = _moment("--since", self.since, clock)[0]
        if self.stdout or self.stderr:
            keywords["stream"] = STDOUT if self.stdout else STDERR
        return keywords

    def notes(self, now: float) -> Iterator[str]:
        """What people may not have meant by `--since`; ``now`` is the server's time, if it is known."""
        if self.since is None:
            return
        from datetime import datetime

        moment, is_local = _moment("--since", self.since, lambda: now)
        if is_local:
            local = datetime.fromtimestamp(moment).astimezone().isoformat()
            yield f"--since {self.since} names no time zone, so it is local time, {local}."
        if moment > now:
            yield f"--since {self.since} is in the future; nothing is shown of what comes before."


def copy(output: Stream, watch: Watch) -> bool:
    """Write a job's bytes to our own stdout and stderr, in order; return whether there were no gaps."""
    whole = True
    output.on_resume = _say_resumed
    for piece in output:
        watch.moved()
        if isinstance(piece, Gap):
            whole = False
            why = _LOST.get(piece.reason, f"cannot be had ({text(piece.reason)})")
            streams.complain(f"{piece.size} bytes of output, from byte {piece.offset} on, {why}.")
        else:
            streams.write(piece.stream, piece.data)
    return whole


def clock_of(client: Client) -> Callable[[], float]:
    """The server's clock; our own, with a note as soon as that matters, where the server does not tell it."""
    told = False

    def now() -> float:
        nonlocal told
        found = client.server_time()
        if found is None and not told:
            told = True
            streams.complain("note: this server does not tell its clock; ages are reckoned by ours.")
        return time.time() if found is None else found

    return now


def _say_resumed(offset: int | None) -> None:
    where = "asking again" if offset is None else f"going on at byte {offset}"
    streams.complain(f"note: the connection was cut; {where}.")


def _bytes(flag: str, text: str) -> int:
    """Read a number of bytes, 0 or more; K, M, G and T are powers of 1024."""
    digits = text.rstrip(_UNIT_LETTERS)
    unit = text[len(digits) :].upper()
    if digits.isascii() and digits.isdigit() and len(digits) <= _DIGITS and unit in _FACTORS:
        count = int(digits) * _FACTORS[unit]
        if count <= _MOST:
            return count
    raise UsageError(f"{flag} {text!r} is no number of bytes: write 4096, 64K or 1M.")


def _lines(flag: str, text: str) -> int:
    """Read a number of lines, 0 or more."""
    if text.isascii() and text.isdigit() and len(text) <= _DIGITS and int(text) <= _MOST:
        return int(text)
    raise UsageError(f"{flag} {text!r} is no number of lines: write a whole number, 0 or more.")


def _moment(flag: str, text: str, clock: Callable[[], float]) -> tuple[float, bool]:
    """Read a time (RFC 3339, a date, or an age) as Unix time; say whether it is local, for want of a zone."""
    import re
    from datetime import datetime

    if age := re.fullmatch(r"(\d{1,9}(?:\.\d+)?)([smhd]?)", text.strip(), re.ASCII):
        return max(0.0, clock() - float(age[1]) * UNIT_SECONDS[age[2]]), False
    try:
        found = datetime.fromisoformat(text.strip().upper())
        return max(0.0, found.timestamp()), found.tzinfo is None
    except (ValueError, OverflowError):
        raise UsageError(
            f"{flag} {text!r} is no time: write 2026-11-25T10:00:00Z, or an age such as 30s, 5m, 2h or 1d."
        ) from None
