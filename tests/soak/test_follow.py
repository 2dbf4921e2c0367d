"""The soak's own judgement: it takes what a job prints, read from anywhere, and nothing else."""

import random
import subprocess
import sys
from dataclasses import replace

import pytest

from tests.soak.follow import DefectError, Follower
from tests.soak.plans import PROGRAM
from tests.soak.talk import STDERR, STDOUT, TABLES, Spec
from wire.jobs import Cause, CauseKind, JobStatus, Status
from wire.messages import Gap, GapReason, Output


def log_of(spec: Spec, chance: random.Random) -> list[Output]:
    """A log of what the job prints, its streams mixed by chance."""
    pieces: list[Output] = []
    places = {STDOUT: 0, STDERR: 0}
    while left := [stream for stream in places if places[stream] < spec.size(stream)]:
        stream = chance.choice(left)
        begin = places[stream]
        end = places[stream] = min(spec.size(stream), begin + chance.randint(1, 3000))
        offset = begin + places[STDOUT + STDERR - stream]
        pieces.append(Output(0, offset, stream, spec.content(stream, begin, end)))
    return pieces


def status(spec: Spec, dropped: int | None = None) -> JobStatus:
    """The end of a job that printed all of it."""
    total, cause = spec.out + spec.err, Cause(CauseKind.EXITED)
    return JobStatus(
        "id", Status.EXITED, 1, (b"x",), "admin", 0, total, exit_code=0, cause=cause, dropped=dropped
    )


def follow(spec: Spec, pieces: list[Output | Gap], begin: int | None, only: int | None = None) -> None:
    """Take pieces and the end of the job."""
    follower = Follower(spec, begin, only)
    for piece in pieces:
        follower.take(piece)
    gone = max((piece.offset + piece.size for piece in pieces if isinstance(piece, Gap)), default=None)
    follower.end(status(spec, gone), follow=True)


def cut(pieces: list[Output], begin: int) -> list[Output]:
    """What of a log comes from an offset on."""
    found = []
    for piece in pieces:
        skip = max(0, begin - piece.offset)
        if piece.data[skip:]:
            found.append(replace(piece, offset=piece.offset + skip, data=piece.data[skip:]))
    return found


SPECS = [
    Spec(seed, out, err, style)
    for seed, style in enumerate(TABLES, 7)
    for out, err in ((0, 0), (1, 0), (200_000, 0), (90_000, 70_000), (5, 9))
    if not (err and style == "zeros")
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.style}-{spec.out}-{spec.err}")
def test_what_was_printed_is_taken_wherever_one_begins(spec: Spec) -> None:
    chance = random.Random(spec.seed)  # noqa: S311
    pieces = log_of(spec, chance)
    total = spec.out + spec.err
    for begin in (0, 1, total // 2, total):
        if begin <= total:
            follow(spec, [*cut(pieces, begin)], begin)
            follow(spec, [*cut(pieces, begin)], None)
    for only in (STDOUT, STDERR):
        follow(spec, [piece for piece in pieces if piece.stream == only], 0, only)
    if total > 1000:
        after = [*cut(pieces, 60_000)]
        follow(spec, [Gap(0, 0, 60_000, GapReason.DROPPED), *after], 0)


@pytest.mark.parametrize("begin", [0, 50_001])
@pytest.mark.parametrize("spec", [Spec(3, 200_000), Spec(4, 90_000, 70_000, "lines")], ids=["one", "two"])
def test_anything_else_is_not(spec: Spec, begin: int) -> None:
    chance = random.Random(1)  # noqa: S311
    pieces = cut(log_of(spec, chance), begin)
    middle = len(pieces) // 2
    piece = pieces[middle]
    flipped = bytes([piece.data[0] ^ 1]) + piece.data[1:]
    other = STDOUT + STDERR - piece.stream
    for wrong in (
        [*pieces[:middle], replace(piece, data=flipped), *pieces[middle + 1 :]],
        [*pieces[:middle], replace(piece, stream=other), *pieces[middle + 1 :]],
        [*pieces[:middle], *pieces[middle + 1 :]],
        [*pieces[: middle + 1], *pieces[middle:]],
        pieces[:-1],
        [*pieces, replace(piece, offset=spec.out + spec.err)],
        [replace(each, data=bytes(len(each.data))) for each in pieces],
    ):
        with pytest.raises(DefectError):
            follow(spec, [*wrong], begin)
    with pytest.raises(DefectError):  # bytes of the log are in their right order, and in the wrong place
        follow(spec, [replace(each, offset=each.offset + 1) for each in pieces], None)
    with pytest.raises(DefectError):
        follow(spec, [Gap(0, begin, 10, GapReason.DROPPED), *pieces], begin)


@pytest.mark.parametrize("spec", [Spec(1, 70_000, 3000, piece=999, value=3), Spec(2, 5000, merged=True)])
def test_the_program_prints_what_is_expected(spec: Spec) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(PROGRAM), spec.encode()],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if spec.merged else subprocess.PIPE,
        check=False,
    )
    assert done.stdout == spec.content(STDOUT, 0, spec.out)
    assert (done.stderr or b"") == spec.content(STDERR, 0, spec.err)
    assert done.returncode == spec.value
