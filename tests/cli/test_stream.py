"""`stream`: which part of the output, gaps, and what happens when the connection is cut; `remove`."""

import dataclasses
import json
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import client.cli as program
from client.blocking import Client
from client.cli.exits import Exit, UsageError, exit_code
from client.cli.follow import Which, clock_of
from tests.cli.program import Program, finish, read_until
from tests.client.fake import HELLO, JOB, BlockingLink, FakeServer
from tests.harness import PATIENCE, Server
from tests.proxy import Proxy, proxy
from wire import codec
from wire.errors import ErrorCode, RequestError
from wire.jobs import JobReply, Status
from wire.messages import STDOUT, Gap, GapReason, Message, Output, Reply, Request

NOTE = "worker-service: note: the connection was cut; going on at byte {}.\n"
LINES = "".join(f"line {number}\n" for number in range(20))
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()


@pytest.fixture(scope="module")
def printed(server: Server) -> str:
    """A job that has printed LINES, and to stderr a word."""
    with server.connect() as client:
        job = client.start(["sh", "-c", f"printf '{LINES}'; sleep 0.2; echo wrong >&2"])
        client.wait(job.id)
    return job.id


@pytest.mark.parametrize(
    ("flags", "out", "err"),
    [
        ([], LINES, "wrong\n"),
        (["--no-follow"], LINES, "wrong\n"),
        (["--follow", "--offset", "0"], LINES, "wrong\n"),
        (["--offset", "7"], LINES[7:], "wrong\n"),
        ([f"--offset={len(LINES) + 6}"], "", ""),
        (["--tail", "2"], LINES[-8:], "wrong\n"),
        (["--tail", "0"], "", ""),
        (["--tail-bytes", "8"], "9\n", "wrong\n"),
        (["--tail-bytes", "1m", "--stdout"], LINES, ""),
        (["--tail-bytes", "1Mi", "--stdout"], LINES, ""),
        (["--tail-bytes", "8B"], "9\n", "wrong\n"),
        (["--stderr"], "", "wrong\n"),
        (["--stdout", "--offset", "14"], LINES[14:], ""),
        (["--since", "1h"], LINES, "wrong\n"),
        (["--since", "2020-01-01T00:00:00Z"], LINES, "wrong\n"),
    ],
)
def test_which_part(cli: Program, printed: str, flags: list[str], out: str, err: str) -> None:
    shown = cli("stream", *flags, printed)
    assert (shown.code, shown.text, shown.err.decode()) == (0, out, err)


@pytest.mark.parametrize(
    ("zone", "since", "notes"),
    [
        ("UTC0", "2020-01-01T00:00:00Z", []),
        ("UTC0", "1h", []),
        (
            "XYZ-2",
            "2020-01-01",
            ["--since 2020-01-01 names no time zone, so it is local time, 2020-01-01T00:00:00+02:00."],
        ),
        (
            "UTC0",
            "2099-01-01T00:00:00Z",
            ["--since 2099-01-01T00:00:00Z is in the future; nothing is shown of what comes before."],
        ),
        (
            "UTC0",
            "2099-01-01",
            [
                "--since 2099-01-01 names no time zone, so it is local time, 2099-01-01T00:00:00+00:00.",
                "--since 2099-01-01 is in the future; nothing is shown of what comes before.",
            ],
        ),
    ],
)
def test_what_is_said_of_a_time(cli: Program, printed: str, zone: str, since: str, notes: list[str]) -> None:
    shown = cli.having(TZ=zone)("stream", "--stdout", "--since", since, printed)
    assert (shown.code, shown.text) == (0, "" if since.startswith("2099") else LINES)
    assert shown.err.decode() == "".join(f"worker-service: note: {note}\n" for note in notes)


def test_without_following_a_running_job_is_left(cli: Program, admin: Client) -> None:
    job = admin.start(["sh", "-c", "echo ready; exec sleep 600"])
    with admin.stream(job.id) as output:
        next(output)
        shown = cli("stream", "--no-follow", job.id)
    assert (shown.code, shown.out, shown.err) == (0, b"ready\n", b"")
    assert admin.query(job.id).status is Status.RUNNING
    admin.stop(job.id)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-25T12:00:00Z", NOON),
        ("2026-11-25t12:00:00z", NOON),
        ("2026-11-25 13:30:00+01:30", NOON),
        ("2026-11-25T12:00:00.250Z", NOON + 0.25),
        ("2026-11-25T12:00", datetime(2026, 11, 25, 12).astimezone().timestamp()),
        ("2026-11-25", datetime(2026, 11, 25).astimezone().timestamp()),
        ("1960-01-01", 0),
    ],
)
def test_times(text: str, moment: float) -> None:
    assert Which(since=text).keywords()["since"] == moment


@pytest.mark.parametrize(
    ("text", "age"),
    [("90", 90), ("30s", 30), ("5m", 300), ("2h", 7200), ("1d", 86400), ("1.5h", 5400), ("0", 0)],
)
def test_ages(text: str, age: float) -> None:
    before = time.time()
    since = Which(since=text).keywords()["since"]
    assert before - age <= since <= time.time() - age


def test_an_age_beyond_the_epoch() -> None:
    assert Which(since="999999d").keywords()["since"] == 0


@pytest.mark.parametrize(
    "text", ["", "soon", "-5m", "5w", "2026-13-01", "m", "1e3", "nan", "0001-01-01T00:00:00"]
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UsageError, match="is no time"):
        _ = Which(since=text).keywords()


@pytest.mark.parametrize(
    "text", ["", "K", "-1", "1.5", "1P", "9223372036854775808", "8388608T", "٣", "1" * 5000]
)
def test_what_is_no_number_of_bytes(text: str) -> None:
    for wanted in (Which(offset=text), Which(tail_bytes=text)):
        with pytest.raises(UsageError, match="is no number of bytes"):
            wanted.keywords()


@pytest.mark.parametrize("text", ["", "1K", "-1", "1.5", "9223372036854775808", "1" * 5000])
def test_what_is_no_number_of_lines(text: str) -> None:
    with pytest.raises(UsageError, match="is no number of lines"):
        Which(tail=text).keywords()


def with_gaps(message: Message) -> Iterable[Message]:
    """A job of exit code 3 whose output has gaps of every kind."""
    assert isinstance(message, Request)
    ended = dataclasses.replace(JOB, status=Status.EXITED, exit_code=3)
    if message.method == "stream":
        yield Gap(message.id, 0, 2**20, GapReason.DROPPED)
        yield Output(message.id, 2**20, STDOUT, b"what is left\n")
        yield Gap(message.id, 2**20 + 13, 1, GapReason.UNREADABLE)
        yield Gap(message.id, 2**20 + 14, 2, GapReason.REMOVED)
    yield Reply(message.id, codec.to_map(JobReply(ended)))


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize(("command", "code"), [(["stream", "x"], 1), (["run", "--", "yes"], 3)])
def test_gaps_are_told(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], command: list[str], code: int
) -> None:
    """BEHAVIOURS 14. A stream with gaps is no success; `run` passes on how the job ended all the same."""
    fake = Client(BlockingLink(FakeServer(with_gaps)), "fake")
    monkeypatch.setattr("client.cli.flags.connect", lambda *given, **named: fake)
    assert program.run(command) == code
    out, err = capfd.readouterr()
    assert out == "what is left\n"
    assert err.splitlines() == [
        "worker-service: 1048576 bytes of output, from byte 0 on, were dropped by the server.",
        "worker-service: 1 bytes of output, from byte 1048589 on, cannot be read by the server.",
        "worker-service: 2 bytes of output, from byte 1048590 on, were removed with the job.",
    ]


def cut_once(answer: Callable[[Message], Iterable[Message]]) -> Client:
    """A client whose first connection is cut at its first request; its second server answers."""

    def cut(message: Message) -> Iterable[Message]:
        first.close()
        return []

    first = FakeServer(cut)
    links = iter([BlockingLink(first), BlockingLink(FakeServer(answer))])
    return Client(next(links), "fake", dial=lambda: next(links), patience=5)


@pytest.mark.usefixtures("signals")
def test_a_cut_before_the_place_is_known(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fake = cut_once(with_gaps)
    monkeypatch.setattr("client.cli.flags.connect", lambda *given, **named: fake)
    assert program.run(["stream", "--tail", "5", "x"]) == 1
    assert capfd.readouterr().err.startswith(
        "worker-service: note: the connection was cut; asking again.\nworker-service: 1048576 bytes"
    )


@pytest.mark.parametrize(
    ("code", "exit_"), [(ErrorCode.RUNNING, Exit.FAILED), (ErrorCode.STALLED, Exit.CONNECTION)]
)
def test_exit_codes(code: ErrorCode, exit_: Exit) -> None:
    assert exit_code(RequestError(code, "x")) is exit_


@pytest.fixture
def between(server: Server) -> Iterator[Proxy]:
    with proxy(server.port) as standing:
        yield standing


@pytest.fixture
def through(cli: Program, between: Proxy) -> Program:
    """The command line, by way of a proxy."""
    return cli.having(WORKER_SERVICE_SERVER=between.address)


STEPS = ("sh", "-c", "echo one; while ! [ -e go ]; do sleep 0.01; done; echo two; exit 3")


@pytest.mark.parametrize(("command", "code"), [("stream", 0), ("run", 3)])
def test_a_cut_is_said_and_the_output_goes_on(
    through: Program, between: Proxy, tmp_path_factory: pytest.TempPathFactory, command: str, code: int
) -> None:
    place = tmp_path_factory.mktemp("steps")
    words = [f"--cwd={place}", "--", *STEPS]
    begun = ["run", *words] if command == "run" else ["stream", through.start(*words)]
    with through.begin(*begun) as process:
        read_until(process, b"one\n")
        assert between.cut() == 1
        (place / "go").touch()
        shown = finish(process)
    assert (shown.code, shown.out, shown.err.decode()) == (code, b"two\n", NOTE.format(4))


def test_each_cut_is_said_once(through: Program, between: Proxy, admin: Client, tmp_path: Path) -> None:
    # It prints a number only once the connection by which the one before it came is cut.
    step = "echo $n; while ! [ -e $n ]; do sleep 0.01; done"
    job = admin.start(["sh", "-c", f"for n in 1 2 3; do {step}; done"], cwd=str(tmp_path))
    with through.begin("stream", job.id) as process:
        for number in (1, 2, 3):
            read_until(process, b"%d\n" % number)
            assert between.cut() == 1
            (tmp_path / str(number)).touch()
        shown = finish(process)
    assert (shown.code, shown.out) == (0, b"")
    assert shown.err.decode() == "".join(NOTE.format(place) for place in (2, 4, 6))


@pytest.mark.parametrize(("command", "code"), [("wait", 3), ("query", 0)])
def test_others_say_nothing_of_a_cut(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], command: str, code: int
) -> None:
    fake = cut_once(with_gaps)
    monkeypatch.setattr("client.cli.flags.connect", lambda *given, **named: fake)
    assert program.run([command, "--json", "x"]) == code
    out, err = capfd.readouterr()
    assert (json.loads(out)["exit_code"], err) == (3, "")


@pytest.mark.parametrize("flag", [True, False])
def test_patience_is_the_user_s(through: Program, between: Proxy, admin: Client, flag: bool) -> None:
    job = admin.start(["sh", "-c", "echo one; exec sleep 600"])
    words = ["--patience", "0.3", "stream", job.id] if flag else ["stream", job.id]
    with through.having(WORKER_SERVICE_PATIENCE="600" if flag else "0.3").begin(*words) as process:
        read_until(process, b"one\n")
        between.close()
        before = time.monotonic()
        shown = finish(process)
    assert 0.2 < time.monotonic() - before < PATIENCE
    assert shown.code == 5
    assert shown.sentence.startswith(f"Cannot reach the server at {between.address}")
    admin.stop(job.id)


def test_no_patience_at_all(through: Program, between: Proxy, admin: Client) -> None:
    job = admin.start(["sh", "-c", "echo one; exec sleep 600"])
    with through.begin("--patience=0", "stream", job.id) as process:
        read_until(process, b"one\n")
        between.cut()
        shown = finish(process)
    assert shown.code == 5
    assert "was cut" in shown.sentence
    assert between.accepted == 1
    admin.stop(job.id)


def test_ctrl_c_while_the_server_is_away_leaves_at_once(
    through: Program, between: Proxy, admin: Client
) -> None:
    job = admin.start(["sh", "-c", "echo one; exec sleep 600"])
    with through.having(WORKER_SERVICE_PATIENCE="600").begin("stream", job.id) as process:
        read_until(process, b"one\n")
        between.close()
        time.sleep(0.5)  # it is at its pauses by now; whatever it does, it must leave
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        left = finish(process)
    assert (left.code, left.out, left.err) == (130, b"", b"")
    assert admin.query(job.id).status is Status.RUNNING
    admin.stop(job.id)


def test_a_job_that_is_gone_when_the_server_is_back(through: Program, between: Proxy, admin: Client) -> None:
    job = admin.start(["sh", "-c", "echo one; exec sleep 600"])
    with through.begin("stream", job.id) as process:
        read_until(process, b"one\n")
        between.close()
        admin.stop(job.id)
        admin.remove(job.id)
        between.reopen()
        shown = finish(process)
    assert shown.code == 3
    assert shown.err.decode().splitlines()[-1].startswith("worker-service: There is no job with id")


def test_remove(cli: Program, user: Program, admin: Client) -> None:
    first, second = (admin.start(["true"]).id for _ in range(2))
    running = admin.start(["sleep", "600"]).id
    for job in (first, second):
        admin.wait(job)
    assert user("remove", first).code == 4
    done = cli("remove", first, running, "nope", second[:18])
    assert done.code == Exit.FAILED  # as the first that failed
    assert done.text == f"job with id {first} removed.\njob with id {second} removed.\n"
    complaints = done.err.decode().splitlines()
    assert [running in complaints[0], "'nope'" in complaints[1], len(complaints)] == [True, True, 2]
    assert cli("remove", "nope", running).code == Exit.NOT_FOUND
    assert cli("query", first).code == Exit.NOT_FOUND
    admin.stop(running)
    assert cli("remove", running).code == 0
    assert not {first, second, running} & set(re.findall(r"^\S+", cli("list").text, re.MULTILINE))


def test_what_is_dropped_is_told(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def answer(message: Message) -> Iterable[Message]:
        assert isinstance(message, Request)
        yield Reply(message.id, codec.to_map(JobReply(dataclasses.replace(JOB, output=4096, dropped=1024))))

    for words in (["query", "x"], ["query", "--json", "x"]):
        fake = Client(BlockingLink(FakeServer(answer)), "fake")
        monkeypatch.setattr("client.cli.flags.connect", lambda *given, fake=fake, **named: fake)
        assert program.run(words) == 0
    *details, line = capfd.readouterr().out.splitlines()
    assert "  output:    4.0 KiB, of which the first 1.0 KiB were dropped" in details
    assert json.loads(line)["dropped_bytes"] == 1024


def test_an_older_server_does_not_tell_its_clock(capfd: pytest.CaptureFixture[str]) -> None:
    """Then ages are by our own, which is said once, and only where one is used."""
    with Client(BlockingLink(FakeServer()), "fake") as client:
        assert client.server_time() is None
        clock = clock_of(client)
        Which(since="2026-01-01").keywords(clock)
        assert capfd.readouterr().err == ""
        before = time.time()
        assert Which(since="0s").keywords(clock)["since"] >= before
        Which(since="1h").keywords(clock)
        assert capfd.readouterr().err == (
            "worker-service: note: this server does not tell its clock; ages are reckoned by ours.\n"
        )


@pytest.mark.parametrize("told", [-1.0, 1e300])
def test_a_clock_that_is_none_is_not_believed(told: float) -> None:
    server = FakeServer(hello=None)
    server.say(dataclasses.replace(HELLO, time=told))
    with Client(BlockingLink(server), "fake") as client:
        assert client.server_time() is None


def test_a_defect_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """A server that tells a time of which no calendar has a name; nobody has thought of that."""
    odd = dataclasses.replace(JOB, started=1e300)

    def answer(message: Message) -> Iterable[Message]:
        return [Reply(message.id, codec.to_map(JobReply(odd)))] if isinstance(message, Request) else []

    fake = Client(BlockingLink(FakeServer(answer)), "fake")
    monkeypatch.setattr("client.cli.flags.connect", lambda *given, **named: fake)
    assert program.run(["query", "x"]) == Exit.SERVER
    out, err = capfd.readouterr()
    assert out == ""
    assert re.fullmatch(
        r"worker-service: this is a defect of worker-service, please report it: "
        r"OverflowError at render\.py:\d+ \(.*\)\.\n",
        err,
    )
