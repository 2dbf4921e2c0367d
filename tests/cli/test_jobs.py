"""`query`, `list` and `stop`: what they print of jobs, ids and their prefixes, roles, both transports."""

import json
import re
import signal
from dataclasses import fields

import pytest

from client.blocking import Client
from tests.cli.program import Program
from tests.harness import Server
from wire.jobs import CauseKind, Usage

FIELDS = {
    *("id", "status", "pid", "exit_code", "signal", "cause", "command", "owner"),
    *("started", "ended", "cwd", "output_bytes", "limits", "usage", "notes"),
    *("dropped_bytes", "user"),
}
USAGE = {field.name for field in fields(Usage)}


def test_query_of_a_running_job(cli: Program, admin: Client) -> None:
    job = admin.start(["sh", "-c", "sleep 600"], cwd="/tmp")
    first, *rest = cli("query", job.id).text.splitlines()
    assert first == f"job with id {job.id} is running."
    details = dict(line.strip().split(":", 1) for line in rest)
    assert details["command"].strip() == "sh -c 'sleep 600'"
    assert (details["status"].strip(), details["pid"].strip()) == ("running", str(job.pid))
    assert details["started"].endswith(" by admin")
    assert details["directory"].strip() == "/tmp"
    found = json.loads(cli("query", "--json", job.id).text)
    assert found.keys() == FIELDS
    assert (found["id"], found["status"], found["pid"]) == (job.id, "running", job.pid)
    assert (found["command"], found["owner"], found["cwd"]) == (["sh", "-c", "sleep 600"], "admin", "/tmp")
    assert [found[name] for name in ("exit_code", "signal", "cause", "ended")] == [None] * 4
    assert found["notes"] == []
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found["started"])
    admin.stop(job.id)


@pytest.mark.parametrize(
    ("script", "status", "code", "number", "kind", "headline"),
    [
        ("printf xyz; exit 3", "exited", 3, None, CauseKind.EXITED, "exited with code 3"),
        ("kill -9 $$", "signaled", None, 9, CauseKind.SIGNALED, "signaled by SIGKILL (Killed)"),
    ],
)
def test_query_of_an_ended_job(
    cli: Program,
    admin: Client,
    script: str,
    status: str,
    code: int | None,
    number: int | None,
    kind: CauseKind,
    headline: str,
) -> None:
    job = admin.start(["sh", "-c", script])
    admin.wait(job.id)
    found = json.loads(cli("query", job.id, "--json").text)
    assert found.keys() == FIELDS
    assert (found["status"], found["exit_code"], found["signal"]) == (status, code, number)
    assert found["cause"]["kind"] == kind
    assert found["output_bytes"] == script.count("xyz") * 3
    assert found["usage"].keys() == USAGE
    text = cli("query", job.id).text
    assert text.startswith(f"job with id {job.id} has stopped.\n")
    assert f"  status:    {headline}\n" in text


def test_stop_tells_who_did_it(cli: Program) -> None:
    job = cli.start("--", "sh", "-c", "trap '' TERM; while :; do sleep 0.01; done")
    assert cli("stop", "--grace", "0", job).text == f"Success! job with id {job} stopped.\n"
    found = json.loads(cli("query", job, "--json").text)
    assert (found["status"], found["signal"]) == ("signaled", signal.SIGKILL)
    assert found["cause"] == {"kind": "stopped", "by": "admin", "detail": None}
    assert "signaled by SIGKILL (stopped by admin)" in cli("query", job).text


def test_a_stop_that_came_too_late_says_so(cli: Program, admin: Client) -> None:
    job = admin.start(["sh", "-c", "exit 3"]).id
    admin.wait(job)
    late = cli("stop", job)
    assert (late.code, late.text) == (0, f"Success! job with id {job} stopped.\n")
    assert late.sentence == "note: the job had ended before: exited with code 3."
    running = admin.start(["sleep", "600"]).id
    first, second = cli("stop", running), cli("stop", running)
    assert (first.code, first.err) == (0, b"")
    assert (second.code, second.text) == (0, first.text)
    assert second.sentence == "note: the job had ended before: signaled by SIGTERM (stopped by admin)."


def test_a_timeout_is_told(cli: Program) -> None:
    job = cli.start("--timeout", "0.05s", "--", "sleep", "600")
    assert cli("wait", job).code == 128 + 15
    found = json.loads(cli("query", job, "--json").text)
    assert found["cause"]["kind"] == "timeout"


def test_list(cli: Program, admin: Client) -> None:
    jobs = [admin.start(["echo", f"number {index}"]).id for index in range(3)]
    for job in jobs:
        admin.wait(job)
    header, *rows = cli("list").text.splitlines()
    assert header.split() == ["ID", "STATUS", "PID", "STARTED", "OUTPUT", "COMMAND"]
    assert [row.split()[0] for row in rows[-3:]] == jobs
    assert rows[-1].endswith("echo 'number 2'")
    assert "exited with code 0" in rows[-1]
    lines = [json.loads(line) for line in cli("list", "--json").text.splitlines()]
    assert [line["id"] for line in lines[-3:]] == jobs
    assert all(line.keys() == FIELDS for line in lines)


def test_a_job_cannot_write_to_the_terminal_of_who_lists_it(cli: Program, admin: Client) -> None:
    job = admin.start(["true", "\x1b]0;owned\x07\n\x9b\u202e"])
    for words in (["list"], ["query", job.id], ["query", "--json", job.id]):
        shown = cli(*words).text
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(shown)
        assert "owned" in shown


def test_output_that_the_terminal_cannot_encode_is_escaped(cli: Program, admin: Client) -> None:
    job = admin.start(["true", "ünï☃"])
    plain = cli.having(PYTHONIOENCODING="ascii")
    assert r"\xfcn\xef\u2603" in plain("query", job.id).text
    assert "ünï☃" in cli.having(PYTHONIOENCODING="utf-8")("query", job.id).text


def test_ids_may_be_shortened(cli: Program, admin: Client) -> None:
    jobs = [admin.start(["true"]).id for _ in range(17)]
    job = admin.start(["sleep", "600"]).id
    assert cli("query", job[:18]).text.startswith(f"job with id {job} is running.\n")
    assert cli("stop", job[:18]).text == f"Success! job with id {job} stopped.\n"
    for words in (["wait", job[:18]], ["stream", job[:18]]):
        assert cli(*words).code == {"wait": 143, "stream": 0}[words[0]]
    first = [id_[0] for id_ in jobs]
    shared = next(char for char in first if first.count(char) > 1)
    ambiguous = cli("query", shared)
    assert ambiguous.code == 3
    pattern = rf"\d+ jobs have an id that begins with '{shared}'; give more\."
    assert re.fullmatch(pattern, ambiguous.sentence)


@pytest.mark.parametrize("command", ["query", "stop", "stream", "wait"])
def test_an_unknown_id(cli: Program, command: str) -> None:
    result = cli(command, "nope")
    assert result.code == (125 if command == "wait" else 3)
    assert result.sentence == "There is no job with id 'nope'; `worker-service list` shows those there are."


def test_a_user_may_look_and_not_touch(user: Program, admin: Client) -> None:
    job = admin.start(["sh", "-c", "echo hello; sleep 600"]).id
    denied = user("start", "--", "true")
    assert (denied.code, denied.out) == (4, b"")
    sentence = "The role User may not start jobs: use a certificate with the role Admin."
    assert denied.sentence == sentence
    assert user("run", "--", "true").sentence == sentence
    assert user("run", "--", "true").code == 125
    refused = user("stop", job)
    assert refused.code == 4
    assert refused.sentence == "The role User may not stop jobs: use a certificate with the role Admin."
    assert user("query", job).text.startswith(f"job with id {job} is running.\n")
    assert job in user("list").text
    admin.stop(job)
    assert user("stream", job).out == b"hello\n"


def test_a_flag_goes_before_the_environment_and_either_side_of_the_command(server: Server) -> None:
    nowhere = Program(server.environment("nobody")).having(
        WORKER_SERVICE_SERVER="127.0.0.1:1", WORKER_SERVICE_CERTS="/nonexistent"
    )
    flags = ["--server", server.address, "--certs", str(server.certs), "--identity=user"]
    for words in ([*flags, "list"], ["list", *flags], [*flags[:2], "list", *flags[2:]]):
        assert nowhere(*words).code == 0
    assert nowhere(*flags, "start", "--", "true").code == 4
    assert nowhere(*flags, "run", "true").sentence.startswith("The role User may not start jobs")


def test_the_same_over_a_websocket(server: Server) -> None:
    cli = Program(server.environment(scheme="wss://"))
    data = b"a\0b" + bytes(range(256))
    ran = cli("run", "--", "sh", "-c", 'printf "$(printf %s "$1")"; echo err >&2; exit 3', "sh", "x")
    assert (ran.code, ran.out, ran.err) == (3, b"x", b"err\n")
    job = cli.start("--", "printf", "".join(rf"\{byte:03o}" for byte in data))
    assert cli("stream", job).out == data
    assert cli("query", job).text.startswith(f"job with id {job} ")
    denied = Program(server.environment("user", "wss://"))("stop", job)
    assert (denied.code, denied.sentence[:31]) == (4, "The role User may not stop jobs")
