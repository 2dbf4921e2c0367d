"""Every command whose output cannot be written says so, with an exit code, and never by a traceback."""

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from client.blocking import Client
from client.cli.commands import app
from client.cli.exits import Exit
from tests.cli.program import PROGRAM, ROOT, Program, Result
from tests.harness import PATIENCE, Server
from tests.tlshelp import make_directory

NAMES = sorted(name for name in app if not name.startswith("-"))
CERTS = ("init", "issue", "request", "sign", "renew", "revoke", "show", "export")
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "WORKER_SERVICE_P12_PASSWORD": "secret"}
#: What is redirected, and what is then wrong with stdout and with stderr.
SHUT = "it is closed"
FULL = "No space left on device"
MODES = {
    ">&-": (SHUT, False),
    ">/dev/full": (FULL, False),
    ">&- 2>/dev/full": (SHUT, True),
    "2>&-": (None, True),
    "2>/dev/full": (None, True),
    "<&-": (None, False),
    "<&- >&- 2>&-": (SHUT, True),
}


def redirected(program: Program, mode: str, words: list[str]) -> Result:
    """Run a command line whose descriptors were changed; pipes of ours stand where they were not."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {mode}', "sh", *PROGRAM, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=program.environment | ENVIRONMENT,
        timeout=PATIENCE,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory whose certificates these tests may change."""
    return make_directory(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def commands(cli: Program, admin: Client, authority: Path, tmp_path: Path) -> Iterator[dict[str, list[str]]]:
    """A command line for each command that ends well and prints something on stdout alone."""
    jobs = [admin.start(["true"]).id for _ in range(2)]
    running = admin.start(["sleep", "600"]).id
    for job in jobs:
        admin.wait(job)
    at = ["--dir", str(authority)]
    (tmp_path / "for-sign").mkdir()
    made = cli("certs", "request", "signed", "--dir", str(tmp_path / "for-sign"))
    request = made.text.strip()
    yield {
        "--version": ["--version"],
        "--help": ["--help"],
        "list": ["list"],
        "query": ["query", jobs[0]],
        "stats": ["stats", "--once", jobs[0]],
        "wait": ["wait", jobs[0]],
        "start": ["start", "--", "true"],
        "stop": ["stop", "--grace", "0", running],
        "doctor": ["doctor", "--certs", str(authority)],
        "certs issue": ["certs", "issue", "ada", "--role", "user", "--force", *at],
        "certs request": ["certs", "request", "bob", "--force", *at],
        "certs sign": ["certs", "sign", request, "--role", "user", "--force", *at],
        "certs renew": ["certs", "renew", "user", *at],
        "certs revoke": ["certs", "revoke", *at],
        "certs show": ["certs", "show", *at],
        "certs export": ["certs", "export", "admin", "--p12", str(tmp_path / "a.p12"), "--force", *at],
    }
    admin.stop(running, grace=0)


def check(name: str, mode: str, result: Result) -> None:
    """What a command must do whose output has nowhere to go."""
    stdout, mute = MODES[mode]
    assert b"Traceback" not in result.err, (name, mode, result)
    if stdout is None:
        assert (result.code, bool(result.out)) == (0, True), (name, mode, result)
        return
    ours = name in ("run", "wait", "run --help", "wait --help")
    assert result.code == (Exit.OURS if ours else Exit.FAILED), (name, mode, result)
    assert result.err == b"" if mute else result.sentence == f"cannot write to stdout: {stdout}.", (
        name,
        mode,
    )


@pytest.mark.parametrize("mode", MODES)
def test_every_command(cli: Program, commands: dict[str, list[str]], mode: str) -> None:
    """In the three plain modes each of them; in the others a third each, another third in each."""
    names = list(commands)
    if mode not in (">&-", ">/dev/full", "2>&-"):
        names = names[list(MODES).index(mode) % 3 :: 3]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda name: redirected(cli, mode, commands[name]), names))
    for name, result in zip(names, found, strict=True):
        check(name, mode, result)


def helps() -> Iterator[list[str]]:
    for name in NAMES:
        yield [name, "--help"]
    for name in CERTS:
        yield ["certs", name, "--help"]


@pytest.mark.parametrize("mode", [">&-", ">/dev/full"])
def test_the_help_of_every_command(cli: Program, mode: str) -> None:
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda words: redirected(cli, mode, words), helps()))
    for words, result in zip(helps(), found, strict=True):
        check(" ".join(words), mode, result)


def test_a_reader_that_has_left(cli: Program, commands: dict[str, list[str]]) -> None:
    """As in `| head -1`: no word, and the code of a program that SIGPIPE ended."""

    def run(words: list[str]) -> tuple[int, bytes]:
        reading, writing = os.pipe()
        os.close(reading)
        try:
            done = subprocess.run(
                [*PROGRAM, *words],
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=subprocess.PIPE,
                env=cli.environment | ENVIRONMENT,
                timeout=PATIENCE,
                check=False,
            )
        finally:
            os.close(writing)
        return done.returncode, done.stderr

    asked = commands | {
        " ".join(words): words for words in (["start", "--help"], ["certs", "init", "--help"])
    }
    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(asked, pool.map(run, asked.values()), strict=True))
    assert found == dict.fromkeys(asked, (Exit.SIGNAL + 13, b""))


@pytest.mark.parametrize("words", [["--help"], [], ["run", "--help"], ["certs", "issue", "-h"]])
def test_the_first_line_of_help_is_all_that_is_read(cli: Program, words: list[str]) -> None:
    """However fast the reader leaves, what it is sent is sent."""
    for _ in range(3):
        shown = cli.shell('{ "$@"; echo $? >&2; } | head -n 1', *words)
        assert shown.err == b"0\n"


def test_every_command_is_asked(commands: dict[str, list[str]], server: Server) -> None:
    """`stream` and `run` print what a job does, `remove` forgets jobs: tests/cli/test_run.py has them."""
    assert {name.split()[0] for name in commands if name[0] != "-"} | {
        "stream",
        "run",
        "remove",
        "serve",
    } == set(NAMES)
    assert {name.split()[1] for name in commands if name.startswith("certs ")} | {"init"} == set(CERTS)


@pytest.mark.parametrize("mode", [">&-", ">/dev/full"])
def test_output_of_a_job(cli: Program, admin: Client, mode: str) -> None:
    job = admin.start(["echo", "x"]).id
    admin.wait(job)
    for words, code in (
        (["stream", job], Exit.FAILED),
        (["run", "echo", "x"], Exit.OURS),
        (["remove", job], 1),
    ):
        result = redirected(cli, mode, words)
        assert (result.code, result.sentence) == (code, f"cannot write to stdout: {MODES[mode][0]}.")
