"""Owns how a follower's bytes are checked: against their place in the log, and in their stream of it."""

from dataclasses import dataclass, field

from tests.soak.talk import STDERR, STDOUT, Spec
from wire.jobs import CauseKind, JobStatus, Status
from wire.messages import Gap, GapReason, Output

#: So many bytes of a stream are at one place of it only.
UNIQUE_BYTES = 32


class DefectError(Exception):
    """The server differs from the model."""


def expect(condition: object, what: str) -> None:
    """Raise a DefectError unless the condition holds."""
    if not condition:
        raise DefectError(what)


@dataclass
class Follower:
    """What one reader of a job has been given so far.

    In a log of two streams, an offset does not say how much before it is stdout. A reader that begins there
    is located by its first bytes; from then on, the places in both streams add up to each piece's offset.

    Args:
        spec: what the job prints.
        next: the offset that must come next; None where only the server knows.
        only: the stream that was asked for; None for both.
    """

    spec: Spec
    next: int | None
    only: int | None = None
    bytes: int = 0
    #: The end of the last gap, per reason.
    gaps: dict[str, int] = field(default_factory=dict)
    _places: dict[int, int] | None = None
    _pending: list[Output] = field(default_factory=list)
    _whole: bool = False

    def __post_init__(self) -> None:
        if self.next == 0:
            self._places = {STDOUT: 0, STDERR: 0}
            self._whole = True

    def take(self, piece: Output | Gap) -> None:
        """Check a piece.

        Raises:
            DefectError: it is not what the job printed there.
        """
        self._check_offset(piece)
        if isinstance(piece, Gap):
            self.gaps[piece.reason] = self.next = piece.offset + piece.size
            self._settle()
            self._places, self._whole = None, False
            return
        expect(self.only in (None, piece.stream), f"stream {piece.stream} came, not {self.only}")
        expect(piece.data, f"no byte at {piece.offset}")
        self.next = piece.offset + len(piece.data)
        self.bytes += len(piece.data)
        if self.spec.single:
            expect(piece.stream == STDOUT, f"{len(piece.data)} bytes of stderr at {piece.offset}")
            self._compare(piece, piece.offset)
        elif self._places is not None:
            self._advance(self._places, piece)
        else:
            self._pending.append(piece)
            if sum(len(each.data) for each in self._pending if each.stream == piece.stream) >= UNIQUE_BYTES:
                self._settle()

    def _check_offset(self, piece: Output | Gap) -> None:
        if self.next is None:
            return
        if self.only is None:
            expect(piece.offset == self.next, f"byte {piece.offset} came, not {self.next}")
        else:
            expect(piece.offset >= self.next, f"byte {piece.offset} came again, after {self.next}")

    def _compare(self, piece: Output, place: int) -> None:
        end = place + len(piece.data)
        expect(
            end <= self.spec.size(piece.stream),
            f"{end} bytes of stream {piece.stream}, which has at most {self.spec.size(piece.stream)}",
        )
        right = self.spec.content(piece.stream, place, end)
        if piece.data != right:
            wrong = next(at for at, (a, b) in enumerate(zip(piece.data, right, strict=True)) if a != b)
            raise DefectError(
                f"byte {piece.offset + wrong} of the log, {place + wrong} of stream {piece.stream}, is "
                f"{piece.data[wrong : wrong + 16]!r}, not {right[wrong : wrong + 16]!r}"
            )

    def _advance(self, places: dict[int, int], piece: Output) -> None:
        place = places[piece.stream]
        other = STDOUT + STDERR - piece.stream
        if self.only is None:
            expect(
                place + places[other] == piece.offset,
                f"byte {piece.offset} came after {places[STDOUT]} of stdout, {places[STDERR]} of stderr",
            )
        else:
            between = piece.offset - place
            expect(
                places[other] <= between <= self.spec.size(other),
                f"byte {piece.offset} came after {place} of its stream, so after {between} of the other",
            )
            places[other] = between
        self._compare(piece, place)
        places[piece.stream] += len(piece.data)

    def _settle(self) -> None:
        """Find where the pending pieces stand."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        streams = {stream: [p for p in pending if p.stream == stream] for stream in (STDOUT, STDERR)}
        stream = max(streams, key=lambda number: sum(len(piece.data) for piece in streams[number]))
        wanted = b"".join(piece.data for piece in streams[stream])
        whole = self.spec.content(stream, 0, self.spec.size(stream))
        before = sum(len(piece.data) for piece in pending[: pending.index(streams[stream][0])])
        place = whole.find(wanted)
        while place >= 0:
            places = {stream: place, STDOUT + STDERR - stream: streams[stream][0].offset - place - before}
            try:
                expect(min(places.values()) >= 0, "a place before the beginning")
                for piece in pending:
                    self._advance(places, piece)
            except DefectError:
                place = whole.find(wanted, place + 1)
            else:
                self._places = places
                return
        raise DefectError(f"what came from byte {pending[0].offset} on, {wanted[:40]!r}, was never printed")

    def end(self, job: JobStatus, *, follow: bool) -> None:
        """Check the end of the stream against the record that came with it."""
        self._settle()
        if (gone := self.gaps.get(GapReason.DROPPED)) is not None:
            expect((job.dropped or 0) >= gone, f"a gap up to {gone}, and {job.dropped} are said to be gone")
        expect(GapReason.UNREADABLE not in self.gaps, f"unreadable up to {self.gaps}")
        if not follow:
            return
        expect(job.status is not Status.RUNNING, f"the stream ended before its job: {job}")
        if self.only is None and self.next is not None:
            expect(self.next == job.output, f"the stream ended at {self.next} of {job.output} bytes")
        if self._whole and self.only and job.cause is not None and job.cause.kind is CauseKind.EXITED:
            size = self.spec.size(self.only) - (self.spec.last if self.only == STDOUT else 0)
            expect(self.bytes == size, f"{self.bytes} of {size} bytes of stream {self.only} came")
