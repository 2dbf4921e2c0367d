"""What goes wrong is one sentence and an exit code; help is of use; nothing slow is loaded for a query."""

import re
from pathlib import Path

import pytest

from client.blocking import Client
from client.cli.exits import Exit
from tests.cli.program import Program, bare
from tests.harness import Server


def test_a_complaint_does_nothing_to_the_terminal(cli: Program) -> None:
    for words in (["\x1b[31m"], ["query", "\x1b[31m\n\x9b"], ["--identity", "\x1b[31m", "list"]):
        assert "\x1b" not in cli(*words).sentence


def test_little_cpu_is_noted(cli: Program) -> None:
    note = (
        "note: --cpu-limit {0} is {1} CPU, as a bare number counts 1/1024 of one; for {0} CPUs write {0}cpu."
    )
    nowhere = ["--server", "127.0.0.1:1", "start"]
    for text, much in (("16", "0.015"), ("11", "0.01"), ("51", "0.049")):
        said = cli(*nowhere, "--cpu-limit", text, "true").err.decode().splitlines()
        assert said[0] == f"worker-service: {note.format(text, much)}"
    for text in ("52", "512", "16m", "1%", "0.02cpu"):  # a unit says what is meant
        assert cli(*nowhere, "--cpu-limit", text, "true").sentence.startswith("Cannot reach")


def test_nobody_answers(cli: Program) -> None:
    for words in (["list"], ["query", "a"], ["stop", "a"], ["stream", "a"], ["start", "--", "true"]):
        result = cli("--server", "127.0.0.1:1", *words)
        assert result.code == Exit.CONNECTION
        assert result.sentence == (
            "Cannot reach the server at 127.0.0.1:1 (Connection refused): check --server, and that it runs."
        )
    for host in ("no-such-host.invalid", "..a", "a" * 300):
        result = cli("--server", f"{host}:1", "list")
        assert result.code == Exit.CONNECTION
        assert result.sentence.startswith(f"Cannot reach the server at {host}:1 (")


def test_certificates_that_are_not_there(cli: Program, tmp_path: Path) -> None:
    missing = tmp_path / "none"
    result = cli("--certs", str(missing), "list")
    assert result.code == Exit.TLS
    assert result.sentence == (
        f"no certificate {missing}/ca.crt: run `worker-service certs init --dir {missing}`, "
        "or name another directory with --certs."
    )
    other = cli("--identity", "nobody", "list")
    assert other.code == Exit.TLS
    assert "nobody.crt" in other.sentence
    served = cli("serve", "--listen", "127.0.0.1:0", "--certs", str(missing))
    assert served.code == Exit.TLS
    assert f"{missing}/ca.crt" in served.sentence


def test_an_empty_variable_counts_as_unset(server: Server, tmp_path: Path) -> None:
    """The same sentence, with the same directory and address, as without the variable."""
    names = (
        "WORKER_SERVICE_SERVER",
        "WORKER_SERVICE_CERTS",
        "WORKER_SERVICE_IDENTITY",
        "WORKER_SERVICE_LISTEN",
        "WORKER_SERVICE_PATIENCE",
    )
    empty = Program(bare() | dict.fromkeys(names, "") | {"XDG_CONFIG_HOME": str(tmp_path)})
    unset = Program(bare() | {"XDG_CONFIG_HOME": str(tmp_path)})
    for words in (["list"], ["serve"], ["list", "--certs", str(server.certs)]):
        assert empty(*words) == unset(*words)
    assert f"{tmp_path}/worker-service/certs/ca.crt" in empty("list").sentence
    assert empty("list", "--certs", str(server.certs), "--server", server.address).code == 0


def test_a_home_that_is_nowhere(server: Server) -> None:
    homeless = Program(bare()).having(HOME="/nonexistent", XDG_CONFIG_HOME=None)
    assert homeless("list").code == Exit.TLS
    assert homeless("list").sentence


def test_help_and_version(cli: Program) -> None:
    expected = {
        "": [
            "Usage: worker-service COMMAND",
            "certs",
            "list",
            "query",
            "remove",
            "run",
            "serve",
            "start",
            "stats",
            "stop",
            "wait",
        ],
        "start": ["Usage: worker-service start [flags] -- COMMAND [ARGUMENT...]", "-command", "--cpu-weight"],
        "run": [
            "Usage: worker-service run [flags] -- COMMAND [ARGUMENT...]",
            "--memory-limit",
            "Ctrl-C",
            "127",
        ],
        "query": ["Usage: worker-service query [OPTIONS] JOB", "unique prefix", "--json", "--server"],
        "stop": ["Usage: worker-service stop [OPTIONS] JOB", "--grace"],
        "list": ["Usage: worker-service list [OPTIONS]", "--json"],
        "wait": ["Usage: worker-service wait [OPTIONS] JOB", "exit code"],
        "stream": [
            "Usage: worker-service stream [OPTIONS] JOB",
            *(
                "Ctrl-C",
                "--no-follow",
                "--offset",
                "--tail",
                "--tail-bytes",
                "--since",
                "--stdout",
                "--stderr",
            ),
            *("WORKER_SERVICE_IDENTITY", "WORKER_SERVICE_PATIENCE", "[default: 30]"),
        ],
        "remove": ["Usage: worker-service remove [OPTIONS] JOB...", "unique prefix"],
        "stats": ["Usage: worker-service stats [OPTIONS] JOB", "--interval", "--once", "--json", "Ctrl-C"],
        "serve": ["Usage: worker-service serve", "--listen", "port 0", "--certs"],
        "certs": ["Usage: worker-service certs COMMAND", "init"],
        "certs init": ["Usage: worker-service certs init", "--dir", "--san", "--force"],
    }
    for command, parts in expected.items():
        for flag in ("--help", "-h"):
            shown = cli.having(COLUMNS="200")(*command.split(), flag)
            assert (shown.code, shown.err) == (0, b""), command
            assert [part for part in parts if part not in shown.text] == []
            assert not re.search(r"--job(?![-\w])", shown.text)
    assert re.fullmatch(r"worker-service \d+\.\d+\.\d+\S*\n", cli("--version").text)
    assert cli().text == cli("--help").text


@pytest.mark.parametrize("command", ["query", "stop", "list", "wait", "stream", "stats", "start", "run"])
def test_nothing_slow_is_loaded(cli: Program, admin: Client, command: str) -> None:
    job = admin.start(["true"]).id
    words = {"list": [], "stats": ["--once", job], "start": ["--", "true"], "run": ["true"]}.get(
        command, [job]
    )
    loaded = cli.having(PYTHONPROFILEIMPORTTIME="1")(command, *words)
    assert loaded.code == 0
    roots = {line.rpartition("|")[2].strip().partition(".")[0] for line in loaded.err.decode().splitlines()}
    assert {"client", "cyclopts", "ssl"} <= roots
    assert not roots & {"trio", "trio_websocket", "wsproto", "cryptography", "rich", "asyncio", "difflib"}
