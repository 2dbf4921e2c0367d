"""What each method makes of its parameters, and what a job is started with."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from certs.roles import Identity, Role
from wire import codec
from wire.errors import ErrorCode, RequestError
from wire.jobs import Cause, CauseKind, JobReply, JobStatus, ListReply, StartParams, Status, Usage
from wire.limits import Limits
from wire.messages import STDERR, STDOUT, GapReason, Reply, Request, encode_message
from worker import methods
from worker.audit import NO_TRAIL, Trail
from worker.blocks import Chunk
from worker.bounds import Bounds
from worker.methods import _environment, _process_spec, prepare
from worker.output import Missing, OutputLog
from worker.registry import Registry
from worker.spawner import ProcessSpec
from worker.users import Users, own_name

USED = Usage(1.0, 0.5, memory=2**20)

MOST = Bounds().max_argument_bytes


@dataclass
class FakeJob:
    """As much of a job as methods look at."""

    id: str
    argv: tuple[bytes, ...] = (b"true",)
    cwd: bytes | None = b"/"
    owner: str = "alice"
    output: OutputLog = field(default_factory=OutputLog)
    ended: trio.Event = field(default_factory=trio.Event)
    stops: list[tuple[Cause, float]] = field(default_factory=list)
    number: int = 0

    def status(self) -> JobStatus:
        return JobStatus(
            self.id, Status.RUNNING, 1, self.argv, self.owner, 0.0, self.output.size, cwd=self.cwd
        )

    def measured(self) -> JobStatus:
        return replace(self.status(), usage=USED)

    async def stop(self, cause: Cause, grace: float) -> None:
        await trio.lowlevel.checkpoint()
        self.stops.append((cause, grace))


class FakeRegistry:
    """A registry of fake jobs that starts none."""

    grace = 10.0
    bounds = Bounds()

    def __init__(self, *jobs: FakeJob) -> None:
        self.jobs = {job.id: job for job in jobs}
        self.removed: list[str] = []
        self.users = Users("nobody")
        for number, job in enumerate(jobs, 1):
            job.number = number
        self.started: list[tuple[ProcessSpec, str, Limits | None, float | None]] = []

    def __iter__(self) -> Iterator[FakeJob]:
        return iter(tuple(self.jobs.values()))

    def find(self, name: str) -> FakeJob:
        try:
            return self.jobs[name]
        except KeyError:
            raise RequestError(ErrorCode.NOT_FOUND, "There is no such job.") from None

    def after(self, cursor: str | None) -> Iterator[FakeJob]:
        return (job for job in self if cursor is None or job.number > int(cursor))

    def remove(self, name: str) -> FakeJob:
        self.removed.append(name)
        return self.jobs.pop(name)

    async def start(
        self, spec: ProcessSpec, *, owner: str, limits: Limits | None, seconds: float | None, trail: Trail
    ) -> FakeJob:
        await trio.lowlevel.checkpoint()
        self.started.append((spec, owner, limits, seconds))
        return FakeJob("new", spec.argv)


@dataclass
class FakeCall:
    """A call whose credit and output the test sees."""

    fake: FakeRegistry
    role: Role = Role.ADMIN
    available: int = 2**20
    stall: float = 30.0
    trail: Trail = NO_TRAIL
    granted: trio.Event = field(default_factory=trio.Event)
    chunks: list[Chunk] = field(default_factory=list)
    gaps: list[Missing] = field(default_factory=list)

    @property
    def identity(self) -> Identity:
        return Identity("bob", "01", self.role)

    @property
    def registry(self) -> Registry:
        return cast("Registry", self.fake)

    def credit(self) -> int:
        return self.available

    async def turn(self) -> None:
        await trio.lowlevel.checkpoint()

    async def wait_credit(self) -> None:
        self.granted = trio.Event()
        await self.granted.wait()

    def grant(self, amount: int) -> None:
        self.available += amount
        self.granted.set()

    async def output(self, chunk: Chunk | Missing) -> None:
        await trio.lowlevel.checkpoint()
        if isinstance(chunk, Missing):
            self.gaps.append(chunk)
            return
        assert len(chunk.data) <= self.available
        self.available -= len(chunk.data)
        self.chunks.append(chunk)


async def answer(call: FakeCall, name: str, **params: Any) -> Any:
    return await prepare(call.role, Request(1, name, params))(call)


# --- parameters


@pytest.mark.parametrize(
    ("name", "params", "field_name"),
    [
        ("start", {}, "argv"),
        ("start", {"argv": "true"}, "argv"),
        ("start", {"argv": [1]}, "argv"),
        ("start", {"argv": ["true"], "env": []}, "env"),
        ("start", {"argv": ["true"], "env": {"A": 1}}, "env"),
        ("start", {"argv": ["true"], "cwd": 1}, "cwd"),
        ("start", {"argv": ["true"], "merge": 1}, "merge"),
        ("start", {"argv": ["true"], "timeout": "1"}, "timeout"),
        ("start", {"argv": ["true"], "timeout": float("nan")}, "timeout"),
        ("start", {"argv": ["true"], "limits": 5}, "limits"),
        ("start", {"argv": ["true"], "limits": {"cpu": -1}}, "limits: cpu"),
        ("stop", {}, "id"),
        ("stop", {"id": b"a"}, "id"),
        ("stop", {"id": "a", "grace": True}, "grace"),
        ("query", {"id": 7}, "id"),
        ("wait", {"id": None}, "id"),
        ("list", {"after": 7}, "after"),
        ("stream", {"id": "a", "offset": -1}, "offset"),
        ("stream", {"id": "a", "offset": 1.5}, "offset"),
    ],
)
def test_bad_parameters_are_named(name: str, params: dict[str, Any], field_name: str) -> None:
    with pytest.raises(RequestError) as caught:
        prepare(Role.ADMIN, Request(1, name, params))
    assert caught.value.code is ErrorCode.BAD_REQUEST
    assert caught.value.message.startswith(f"{name}: {field_name}")


@pytest.mark.parametrize(
    ("name", "params", "sentence"),
    [
        ("start", {"argv": ["true"], "timeout": -1.0}, "timeout must be a number of seconds"),
        ("start", {"argv": ["true"], "timeout": 1e10}, "timeout must be a number of seconds"),
        ("start", {"argv": ["true"], "limits": {"memory": 5}}, "the memory limit must be from"),
        ("start", {"argv": ["true"], "limits": {"pids": 0}}, "the pids limit must be from"),
        ("start", {"argv": []}, "argv must name a program"),
        ("start", {"argv": ["true"], "cwd": ""}, "cwd must be an absolute path"),
        ("stop", {"id": "a", "grace": -0.5}, "grace must be a number of seconds"),
    ],
)
async def test_values_that_make_no_sense(name: str, params: dict[str, Any], sentence: str) -> None:
    registry = FakeRegistry(FakeJob("a"))
    with pytest.raises(RequestError, match=sentence) as caught:
        await answer(FakeCall(registry), name, **params)
    assert caught.value.code is ErrorCode.BAD_REQUEST
    assert not registry.started
    assert not registry.jobs["a"].stops


async def test_a_start_passes_on_what_was_asked() -> None:
    registry = FakeRegistry()
    await answer(
        FakeCall(registry),
        "start",
        argv=["a", b"\xff"],
        env={"A": "1"},
        cwd="/tmp",
        merge=True,
        timeout=5,
        limits={"pids": 7},
        user=own_name(),
    )
    await answer(FakeCall(registry), "start", argv=["b"], limits={})
    (spec, owner, limits, seconds), (plain, _, no_limits, no_seconds) = registry.started
    assert (spec.argv, spec.cwd, spec.merge) == ((b"a", b"\xff"), b"/tmp", True)
    assert spec.env[b"A"] == b"1"
    assert (owner, limits, seconds) == ("bob", Limits(pids=7), 5.0)
    assert (plain.cwd, plain.merge) == (os.fsencode(os.getcwd()), False)  # noqa: PTH109
    assert (no_limits, no_seconds) == (None, None)
    assert [what.user and what.user.name for what in (spec, plain)] == [own_name(), "nobody"]
    assert (plain.env[b"USER"], plain.env[b"HOME"]) == (b"nobody", b"/nonexistent")


async def test_a_stop_names_who_asked_and_its_grace() -> None:
    job = FakeJob("a")
    call = FakeCall(FakeRegistry(job))
    for params in ({}, {"grace": 0}, {"grace": 2.5}):
        assert isinstance(await answer(call, "stop", id="a", **params), JobReply)
    cause = Cause(CauseKind.STOPPED, by="bob")
    assert job.stops == [(cause, 10.0), (cause, 0.0), (cause, 2.5)]


async def test_only_a_query_measures_a_job_that_runs() -> None:
    """Counters are read when they are asked for: a list may be of thousands of jobs."""
    job = FakeJob("a")
    call = FakeCall(FakeRegistry(job))
    assert await answer(call, "query", id="a") == JobReply(job.measured())
    assert await answer(call, "stop", id="a") == JobReply(job.status())
    assert (await answer(call, "list")).jobs == (job.status(),)
    job.ended.set()
    assert await answer(call, "wait", id="a") == JobReply(job.status())


@pytest.mark.parametrize("name", ["stop", "query", "wait", "stream"])
async def test_a_job_that_is_not_there(name: str) -> None:
    with pytest.raises(RequestError) as caught:
        await answer(FakeCall(FakeRegistry()), name, id="none")
    assert caught.value.code is ErrorCode.NOT_FOUND


# --- what a job is started with


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        (StartParams(()), "argv must name a program"),
        (StartParams((b"",)), "argv must name a program"),
        (StartParams((b"a\0b",)), "NUL"),
        (StartParams((b"a", b"\0")), "NUL"),
        (StartParams((b"a",), env={b"A\0": b""}), "NUL"),
        (StartParams((b"a",), env={b"A": b"\0"}), "NUL"),
        (StartParams((b"a",), cwd=b"/a\0"), "NUL"),
        (StartParams((b"a",), env={b"A=B": b""}), "'='"),
        (StartParams((b"a",), env={b"=": b""}), "'='"),
        (StartParams((b"a",), env={b"": b"x"}), "empty"),
        (StartParams((b"a",), cwd=b"tmp"), "cwd must be an absolute path"),
        (StartParams((b"a",), cwd=b"./tmp"), "cwd must be an absolute path"),
        (StartParams((b"a",), cwd=b""), "cwd must be an absolute path"),
        (StartParams((b"a", bytes([65]) * MOST)), "may weigh"),
        (StartParams((b"a",), env={b"A": bytes([65]) * MOST}), "may weigh"),
        (StartParams((b"a",), env={bytes([65]) * MOST: b"x"}), "may weigh"),
    ],
)
def test_what_the_kernel_would_take_wrongly_is_refused(params: StartParams, problem: str) -> None:
    with pytest.raises(RequestError) as caught:
        _process_spec(params, MOST)
    assert caught.value.code is ErrorCode.BAD_REQUEST
    assert caught.value.message.startswith("start: ")
    assert problem in caught.value.message
    assert len(caught.value.message) < 200


def test_what_looks_odd_and_is_right_is_taken() -> None:
    argv = (b"a", b"", b"=", b"\xff\n", b"x" * 1_000_000)
    spec = _process_spec(StartParams(argv, env={b"A": b"=\xff", b"b c": b""}, cwd=b"/\xff"), MOST)
    assert (spec.argv, spec.cwd) == (argv, b"/\xff")
    assert spec.env.items() >= {b"A": b"=\xff", b"b c": b""}.items()


def test_the_environment_is_an_allow_list() -> None:
    server = {name: name.lower() for name in ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL")}
    server |= {"LC_CTYPE": "lc_ctype", "TZ": "\udcff"}
    secrets = {
        "AWS_SECRET_ACCESS_KEY": "x",
        "LD_PRELOAD": "x",
        "LD_LIBRARY_PATH": "x",
        "PYTHONPATH": "x",
        "WORKER_SERVICE_CERTS": "x",
        "NOTIFY_SOCKET": "x",
        "path": "x",
    }
    expected = {name.encode(): os.fsencode(value) for name, value in server.items()}
    assert _environment(server | secrets) == expected
    assert _environment({}) == {b"PATH": methods.DEFAULT_PATH.encode()}


def test_a_clients_environment_comes_over_the_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "C")
    monkeypatch.setenv("SECRET", "x")
    spec = _process_spec(StartParams((b"a",), env={b"LANG": b"mine", b"SECRET": b"mine too"}), MOST)
    assert (spec.env[b"LANG"], spec.env[b"SECRET"]) == (b"mine", b"mine too")
    assert b"SECRET" not in _process_spec(StartParams((b"a",)), MOST).env


# --- list


async def pages(call: FakeCall) -> list[list[str]]:
    """Each page's ids; asserts that each fits the wire."""
    found, after = [], None
    while True:
        reply = await answer(call, "list", **({"after": after} if after else {}))
        assert isinstance(reply, ListReply)
        encode_message(Reply(1, codec.to_map(reply)))
        found.append([job.id for job in reply.jobs])
        assert found[-1] or not after
        after = reply.next
        if after is None:
            return found


async def test_an_empty_list() -> None:
    assert await pages(FakeCall(FakeRegistry())) == [[]]


async def test_pages_hold_every_job_once_in_order() -> None:
    jobs = [FakeJob(str(number)) for number in range(2500)]
    found = await pages(FakeCall(FakeRegistry(*jobs), Role.USER))
    assert 2 <= len(found) <= 15
    assert [name for page in found for name in page] == [job.id for job in jobs]


@pytest.mark.parametrize(
    "extreme",
    [
        FakeJob("", argv=(b"x" * MOST,)),
        FakeJob("", argv=(b"",) * 65_536),
        FakeJob("", cwd=b"/" * 4095),
        FakeJob("", owner="\u20ac" * 600),
    ],
    ids=["large arguments", "many empty arguments", "long directories", "long names"],
)
async def test_pages_of_extreme_jobs_fit_the_wire(extreme: FakeJob) -> None:
    """One job that made `list` fail would hide all of them."""
    number = 1100 if len(extreme.argv) == 1 and len(extreme.argv[0]) < 10 else 8
    jobs = [
        FakeJob(str(index), argv=extreme.argv, cwd=extreme.cwd, owner=extreme.owner)
        for index in range(number)
    ]
    jobs.insert(1, FakeJob("small"))
    found = await pages(FakeCall(FakeRegistry(*jobs)))
    assert [name for page in found for name in page] == [job.id for job in jobs]


async def test_a_page_goes_on_behind_a_job_that_was_removed_meanwhile() -> None:
    registry = FakeRegistry(*(FakeJob(str(number)) for number in range(2500)))
    first = await answer(FakeCall(registry), "list")
    del registry.jobs[first.jobs[-1].id]
    second = await answer(FakeCall(registry), "list", after=first.next)
    assert int(second.jobs[0].id) == int(first.jobs[-1].id) + 1


# --- stream


@given(
    pieces=st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(min_size=1, max_size=30)), max_size=12),
    grants=st.lists(st.integers(1, 60), max_size=12),
    place=st.floats(0, 1),
    data=st.randoms(use_true_random=False),
)
async def test_a_stream_is_the_log_from_its_offset(
    pieces: list[tuple[int, bytes]], grants: list[int], place: float, data: Any
) -> None:
    job = FakeJob("a")
    whole = b"".join(piece for _, piece in pieces)
    tags = [stream for stream, piece in pieces for _ in piece]
    offset = int(place * len(whole))
    call = FakeCall(FakeRegistry(job), Role.USER, available=0)
    steps: list[Callable[[], None]] = [partial(job.output.append, *piece) for piece in pieces]
    for grant in grants:
        steps.insert(data.randint(0, len(steps)), partial(call.grant, grant))
    replies = []

    async def stream() -> None:
        replies.append(await answer(call, "stream", id="a", offset=offset))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream)
        for step in steps:
            step()
            if data.random() < 0.5:
                await trio.testing.wait_all_tasks_blocked()
        job.output.close()
        job.ended.set()
        call.grant(len(whole))
    assert [reply.job.output for reply in replies] == [len(whole)]
    assert not job.output._subscribers
    at = offset
    for chunk in call.chunks:
        assert chunk.offset == at
        at += len(chunk.data)
        assert tags[chunk.offset : at] == [chunk.stream] * len(chunk.data)
    assert b"".join(chunk.data for chunk in call.chunks) == whole[offset:]


async def test_a_stream_ends_only_with_the_final_status() -> None:
    job = FakeJob("a")
    job.output.append(STDOUT, b"x")
    job.output.close()
    done = SimpleNamespace(reply=None)

    async def stream() -> None:
        done.reply = await answer(FakeCall(FakeRegistry(job)), "stream", id="a")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream)
        await trio.testing.wait_all_tasks_blocked()
        assert done.reply is None
        job.ended.set()
    assert done.reply is not None


async def test_an_offset_beyond_the_end_is_told_so() -> None:
    job = FakeJob("a")
    job.output.append(STDOUT, b"abc")
    job.output.close()
    job.ended.set()
    call = FakeCall(FakeRegistry(job))
    await answer(call, "stream", id="a", offset=3)
    with pytest.raises(RequestError, match="printed 3 bytes; 4 is beyond") as caught:
        await answer(call, "stream", id="a", offset=4)
    assert caught.value.code is ErrorCode.BAD_REQUEST
    assert call.chunks == []


# --- which part of a log


def ended_job(*pieces: tuple[int, bytes]) -> FakeJob:
    job = FakeJob("a")
    for stream, data in pieces:
        job.output.append(stream, data)
    job.output.close()
    job.ended.set()
    return job


LINES = ((STDOUT, b"one\ntwo\n"), (STDERR, b"oops\n"), (STDOUT, b"three\nfour"))


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, [(0, b"one\ntwo\n"), (8, b"oops\n"), (13, b"three\nfour")]),
        ({"offset": 10}, [(10, b"ps\n"), (13, b"three\nfour")]),
        ({"tail_bytes": 3}, [(20, b"our")]),
        ({"tail_bytes": 3, "stream": 2}, [(10, b"ps\n")]),
        ({"tail_bytes": 0}, []),
        ({"tail_bytes": 999}, [(0, b"one\ntwo\n"), (8, b"oops\n"), (13, b"three\nfour")]),
        ({"tail_lines": 1}, [(19, b"four")]),
        ({"tail_lines": 3}, [(8, b"oops\n"), (13, b"three\nfour")]),
        ({"tail_lines": 3, "stream": 1}, [(4, b"two\n"), (13, b"three\nfour")]),
        ({"stream": 2}, [(8, b"oops\n")]),
        ({"since": 0.0, "stream": 1}, [(0, b"one\ntwo\n"), (13, b"three\nfour")]),
        ({"since": 4e9}, []),
    ],
)
async def test_a_stream_begins_where_it_was_asked_to(
    params: dict[str, Any], expected: list[tuple[int, bytes]]
) -> None:
    for follow in (True, False):
        call = FakeCall(FakeRegistry(ended_job(*LINES)), Role.USER)
        await answer(call, "stream", id="a", follow=follow, **params)
        assert [(chunk.offset, chunk.data) for chunk in call.chunks] == expected


async def test_without_follow_a_stream_ends_where_the_log_does_now() -> None:
    job = FakeJob("a")
    job.output.append(STDOUT, b"so far")
    call = FakeCall(FakeRegistry(job), available=3)

    async def grow() -> None:
        await trio.testing.wait_all_tasks_blocked()
        job.output.append(STDOUT, b", and more")
        call.grant(100)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(grow)
        await answer(call, "stream", id="a", follow=False)
    assert b"".join(chunk.data for chunk in call.chunks) == b"so far"


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"offset": 1, "tail_lines": 1}, "only one of offset, tail_bytes, tail_lines and since"),
        ({"since": 1.0, "tail_bytes": 1}, "only one of offset, tail_bytes, tail_lines and since"),
        ({"stream": 3}, "stream must be 1"),
    ],
)
async def test_a_start_that_makes_no_sense_is_refused(params: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence) as caught:
        await answer(FakeCall(FakeRegistry(ended_job())), "stream", id="a", **params)
    assert caught.value.code is ErrorCode.BAD_REQUEST


async def test_what_was_dropped_is_told_with_its_range() -> None:
    job = ended_job(*LINES)
    assert job.output.drop()
    call = FakeCall(FakeRegistry(job), available=1)
    await answer(call, "stream", id="a", offset=5)
    assert call.gaps == [Missing(5, 18, GapReason.DROPPED)]
    assert call.chunks == []


async def test_a_stream_without_credit_is_given_up_with_its_offset(
    autojump_clock: trio.testing.MockClock,
) -> None:
    job = FakeJob("a")
    job.output.append(STDOUT, b"0123456789")
    call = FakeCall(FakeRegistry(job), available=4, stall=7.0)
    with pytest.raises(RequestError, match="goes on at byte 4") as caught:
        await answer(call, "stream", id="a")
    assert (caught.value.code, caught.value.offset) == (ErrorCode.STALLED, 4)
    assert trio.current_time() >= 7
    assert not job.output._subscribers


async def test_a_stream_that_has_nothing_to_send_is_never_given_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    call = FakeCall(FakeRegistry(FakeJob("a")), available=0, stall=7.0)
    with trio.move_on_after(1000) as scope:
        await answer(call, "stream", id="a")
    assert scope.cancelled_caught


async def test_remove_answers_with_the_last_record() -> None:
    registry = FakeRegistry(ended_job(*LINES))
    reply = await answer(FakeCall(registry), "remove", id="a")
    assert (reply.job.id, registry.removed) == ("a", ["a"])
