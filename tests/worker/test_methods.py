"""What each method makes of its parameters, and what a job is started with."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from certs.roles import Role
from tests.worker.calls import LINES, FakeCall, FakeJob, FakeRegistry, answer, ended_job
from tests.worker.common import KeptLog
from wire import codec
from wire.errors import ErrorCode, RequestError
from wire.jobs import (
    Cause,
    CauseKind,
    JobReply,
    ListReply,
    StartParams,
)
from wire.limits import Limits
from wire.messages import Reply, Request, encode_message
from worker.audit import Audit, Trail
from worker.bounds import Bounds
from worker.methods import METHODS, prepare
from worker.process_spec import DEFAULT_PATH, environment_of, process_spec
from worker.users import own_name

MOST = Bounds().max_argument_bytes


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
    assert caught.value.field == field_name.replace(": ", ".")


@pytest.mark.parametrize(
    ("name", "params", "field", "sentence"),
    [
        ("start", {"argv": ["true"], "limit": {}}, "limit", "start: there is no field 'limit'."),
        (
            "start",
            {"argv": ["true"], "limits": {"gpu": 3}},
            "limits.gpu",
            "start: limits: there is no field 'gpu'.",
        ),
        ("stop", {"id": "a", "force": True}, "force", "stop: there is no field 'force'."),
        ("query", {"id": "a", "x" * 99: {}}, "x" * 60, f"query: there is no field '{'x' * 60}'."),
        ("wait", {"id": "a", "timeout": 5}, "timeout", "wait: there is no field 'timeout'."),
        ("list", {"owner": "bob"}, "owner", "list: there is no field 'owner'."),
        ("stream", {"id": "a", "tail": 5}, "tail", "stream: there is no field 'tail'."),
        ("remove", {"id": "a", "force": False}, "force", "remove: there is no field 'force'."),
    ],
)
def test_unknown_parameters_are_refused(name: str, params: dict[str, Any], field: str, sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        prepare(Role.ADMIN, Request(1, name, params))
    assert caught.value.code is ErrorCode.BAD_REQUEST
    assert (caught.value.field, caught.value.message) == (field, sentence)


def test_an_unknown_parameter_that_is_nil_is_absent() -> None:
    prepare(Role.ADMIN, Request(1, "start", {"argv": ["true"], "gpu": None, "limits": {"gpu": None}}))


def test_every_method_is_strict() -> None:
    for name, found in METHODS.items():
        with pytest.raises(RequestError) as caught:
            prepare(Role.ADMIN, Request(1, name, {"colour": 1}))
        assert caught.value.field == "colour", found


def test_a_request_with_an_unknown_field_is_refused() -> None:
    with pytest.raises(RequestError, match=r"^list: a request has no field 'parms'.$") as caught:
        prepare(Role.ADMIN, Request(1, "list", unknown="parms"))
    assert (caught.value.code, caught.value.field) == (ErrorCode.BAD_REQUEST, "parms")


@pytest.mark.parametrize(
    ("name", "params", "field", "sentence"),
    [
        ("start", {"argv": ["true"], "timeout": -1.0}, "timeout", "timeout must be .* from 0 to 315360000,"),
        ("start", {"argv": ["true"], "timeout": 1e18}, "timeout", "timeout must be .* from 0 to 315360000,"),
        ("start", {"argv": ["true"], "limits": {"memory": 5}}, "limits.memory", "the memory limit must be"),
        ("start", {"argv": ["true"], "limits": {"cpu_weight": 0}}, "limits.cpu_weight", "must be from 1 to"),
        ("start", {"argv": []}, "argv", "argv must name a program"),
        ("start", {"argv": ["true", "\0"]}, "argv", "may hold no NUL byte"),
        ("start", {"argv": ["true"], "env": {"A": "\0"}}, "env", "may hold no NUL byte"),
        ("start", {"argv": ["true"], "env": {"": "1"}}, "env", "may be neither empty"),
        ("start", {"argv": ["true"], "cwd": ""}, "cwd", "cwd must be an absolute path"),
        ("start", {"argv": ["true"], "cwd": "/\0"}, "cwd", "may hold no NUL byte"),
        ("stop", {"id": "a", "grace": -0.5}, "grace", "grace must be a number of seconds"),
        ("stream", {"id": "a", "stream": 3}, "stream", "stream must be 1"),
        ("stream", {"id": "a", "offset": 1, "since": 1.0}, "since", "only one of offset"),
        ("stream", {"id": "a", "tail_bytes": 0, "tail_lines": 0}, "tail_lines", "only one of offset"),
    ],
)
async def test_values_that_make_no_sense(
    name: str, params: dict[str, Any], field: str, sentence: str
) -> None:
    registry = FakeRegistry(FakeJob("a"))
    with pytest.raises(RequestError, match=sentence) as caught:
        await answer(FakeCall(registry), name, **params)
    assert (caught.value.code, caught.value.field) == (ErrorCode.BAD_REQUEST, field)
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
    assert (plain.cwd, plain.merge) == (b"/srv", False)
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


async def test_a_stop_has_one_outcome_in_the_audit_log_also_if_the_job_had_ended(
    log: KeptLog, tmp_path: Path
) -> None:
    audit = Audit(str(tmp_path / "audit.log"), log)
    for job in (FakeJob("a"), ended_job()):
        trail = Trail(audit).request(Request(1, "stop"))
        await answer(FakeCall(FakeRegistry(job), trail=trail), "stop", id="a")
        trail.cancelled()  # while the reply waits for room
    audit.close()
    lines = [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]
    outcomes = [(line["event"], line.get("grace"), line.get("cause")) for line in lines]
    assert outcomes == [("job_stopping", 10.0, None), ("job_stopping", None, "it had ended already")]


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
        process_spec(params, MOST)
    assert caught.value.code is ErrorCode.BAD_REQUEST
    assert caught.value.message.startswith("start: ")
    assert problem in caught.value.message
    assert len(caught.value.message) < 200


def test_what_looks_odd_and_is_right_is_taken() -> None:
    argv = (b"a", b"", b"=", b"\xff\n", b"x" * 1_000_000)
    spec = process_spec(StartParams(argv, env={b"A": b"=\xff", b"b c": b""}, cwd=b"/\xff"), MOST)
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
    assert environment_of(server | secrets) == expected
    assert environment_of({}) == {b"PATH": DEFAULT_PATH.encode()}


def test_a_clients_environment_comes_over_the_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "C")
    monkeypatch.setenv("SECRET", "x")
    spec = process_spec(StartParams((b"a",), env={b"LANG": b"mine", b"SECRET": b"mine too"}), MOST)
    assert (spec.env[b"LANG"], spec.env[b"SECRET"]) == (b"mine", b"mine too")
    assert b"SECRET" not in process_spec(StartParams((b"a",)), MOST).env


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
    assert 2 <= len(found) <= 25
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


async def test_remove_answers_with_the_last_record() -> None:
    registry = FakeRegistry(ended_job(*LINES))
    reply = await answer(FakeCall(registry), "remove", id="a")
    assert (reply.job.id, registry.removed) == ("a", ["a"])
