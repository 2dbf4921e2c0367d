"""What commands make of a newer server: its codes, statuses, causes and reasons are shown, never nonsense."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterable

import pytest

from client import cli as program
from client.blocking import Client
from tests.client.fake import JOB, BlockingLink, FakeServer
from wire import codec
from wire.jobs import Cause, JobReply, JobStatus, ListReply, Status
from wire.messages import Failure, Gap, Message, Output, Reply, Request

QUEUED = dataclasses.replace(JOB, status="queued")
EVICTED = dataclasses.replace(
    JOB, status="evicted", cause=Cause("quota", by="eve", detail="\x1bnow"), ended=3.5
)

Serve = Callable[[Callable[[Request], Iterable[Message]]], None]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Have the commands talk to a server that answers each request so."""

    def use(answer: Callable[[Request], Iterable[Message]]) -> None:
        def heard(message: Message) -> Iterable[Message]:
            return answer(message) if isinstance(message, Request) else []

        client = Client(BlockingLink(FakeServer(heard)), "fake")
        monkeypatch.setattr("client.cli.flags.connect", lambda *given, **named: client)

    return use


def reply(request: Request, job: JobStatus) -> Reply:
    return Reply(request.id, codec.to_map(JobReply(job)))


@pytest.mark.parametrize(
    ("job", "headline", "status"),
    [
        (QUEUED, f"job with id {JOB.id} is queued.", "queued"),
        (EVICTED, f"job with id {JOB.id} is evicted.", "evicted (quota by eve: \\x1bnow)"),
        (dataclasses.replace(JOB, status="\x1b[2J"), f"job with id {JOB.id} is \\x1b[2J.", "\\x1b[2J"),
    ],
)
def test_a_status_that_we_do_not_know_is_shown(
    serve: Serve, capfd: pytest.CaptureFixture[str], job: JobStatus, headline: str, status: str
) -> None:
    serve(lambda request: [reply(request, job)])
    assert program.run(["query", JOB.id]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == headline
    assert f"  status:    {status}" in lines


@pytest.mark.parametrize("job", [QUEUED, EVICTED])
def test_json_has_it_as_it_is(serve: Serve, capfd: pytest.CaptureFixture[str], job: JobStatus) -> None:
    serve(lambda request: [reply(request, job)])
    assert program.run(["query", "--json", JOB.id]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["status"] == job.status
    assert (found["cause"] or {}).get("kind") == (job.cause and job.cause.kind)


def test_a_list_shows_it(serve: Serve, capfd: pytest.CaptureFixture[str]) -> None:
    serve(lambda request: [Reply(request.id, codec.to_map(ListReply((QUEUED, JOB))))])
    assert program.run(["list"]) == 0
    _, first, second = capfd.readouterr().out.splitlines()
    assert [line.split()[1] for line in (first, second)] == ["queued", "running"]


def test_who_waits_gets_the_end(serve: Serve, capfd: pytest.CaptureFixture[str]) -> None:
    serve(lambda request: [reply(request, EVICTED)])
    assert program.run(["wait", JOB.id]) == 125
    out, err = capfd.readouterr()
    assert out.startswith(f"job with id {JOB.id} is evicted.\n")
    assert err == ""


@pytest.mark.usefixtures("signals")
def test_run_says_a_cause_that_we_do_not_know(serve: Serve, capfd: pytest.CaptureFixture[str]) -> None:
    serve(lambda request: [reply(request, JOB if request.method == "start" else EVICTED)])
    assert program.run(["run", "--", "yes"]) == 125
    assert "quota" in capfd.readouterr().err


def test_a_gap_for_a_reason_that_we_do_not_know_is_told(
    serve: Serve, capfd: pytest.CaptureFixture[str]
) -> None:
    ended = dataclasses.replace(JOB, status=Status.EXITED, exit_code=0, ended=3.5)
    serve(
        lambda request: [
            Gap(request.id, 0, 100, "expired"), Output(request.id, 100, 1, b"rest\n"), reply(request, ended)
        ]
    )  # fmt: skip
    assert program.run(["stream", JOB.id]) == 1
    out, err = capfd.readouterr()
    assert out == "rest\n"
    assert err == "worker-service: 100 bytes of output, from byte 0 on, cannot be had (expired).\n"


@pytest.mark.parametrize(
    ("category", "code"), [("retry", 1), ("correct", 1), ("forbidden", 4), ("a newer one", 1), (None, 1)]
)
def test_an_error_whose_code_we_do_not_know_is_treated_by_its_category(
    serve: Serve, capfd: pytest.CaptureFixture[str], category: str | None, code: int
) -> None:
    serve(lambda request: [Failure(request.id, "quota_exceeded", "Too many jobs today.", category=category)])
    assert program.run(["start", "--", "yes"]) == code
    assert capfd.readouterr().err == "worker-service: Too many jobs today.\n"


def test_stats_go_on_until_the_job_has_ended(
    serve: Serve, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([QUEUED, JOB, QUEUED, EVICTED])
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    serve(lambda request: [reply(request, next(answers))])
    assert program.run(["stats", "--json", JOB.id]) == 0
    lines = map(json.loads, capfd.readouterr().out.splitlines())
    assert [line["status"] for line in lines] == ["queued", "running", "queued", "evicted"]
