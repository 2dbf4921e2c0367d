"""The five commands of the seed, letter for letter, on a real file that a real sort sorts."""

import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.program import Program, has_limits
from tests.harness import Server, serve
from worker.disks import whole_disks

ID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
LINES = 50_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server works, and so its jobs: a folder with ``largefile.txt``."""
    folder = tmp_path_factory.mktemp("work")
    chance = random.Random(3)  # noqa: S311  # a test wants the same lines each time
    lines = [f"{chance.getrandbits(64):020} {number}\n" for number in range(LINES)]
    (folder / "largefile.txt").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def local(shared_certificates: Path, folder: Path) -> Iterator[Server]:
    with serve(shared_certificates, cwd=folder) as running:
        yield running


@pytest.fixture
def cli(local: Server) -> Program:
    return Program(local.environment())


def check_sorted(folder: Path) -> None:
    lines = (folder / "sortedfile.txt").read_bytes().splitlines()
    assert len(lines) == LINES
    assert lines == sorted((folder / "largefile.txt").read_bytes().splitlines())


def test_start(cli: Program, folder: Path) -> None:
    started = cli("start", "-command", "sort", "largefile.txt -o sortedfile.txt")
    assert re.fullmatch(rf"job with id {ID} started\.\n", started.text)
    assert (started.code, started.err) == (0, b"")
    assert cli("wait", started.text.split()[3]).code == 0
    check_sorted(folder)


def test_start_in_the_form_that_people_expect(cli: Program, folder: Path) -> None:
    started = cli("start", "--", "sort", "largefile.txt", "-o", "sortedfile.txt")
    assert re.fullmatch(rf"job with id {ID} started\.\n", started.text)
    assert cli("wait", started.text.split()[3]).code == 0
    check_sorted(folder)


def test_start_with_resource_limits(cli: Program, local: Server, folder: Path) -> None:
    words = ["start", "-command", "sort", "largefile.txt -o sortedfile.txt"]
    words += ["--cpu-limit", "512", "--memory-limit", "500M", "--disk-limit", "500"]
    started = cli(*words)
    if not has_limits(local.log) or not whole_disks():
        pattern = r"The (cpu|memory|disk_ops) limit cannot be enforced on this host: .*"
        assert re.fullmatch(pattern, started.sentence)
        assert (started.code, started.out) == (1, b"")
        return
    assert re.fullmatch(rf"job with id {ID} started with resource limits\.\n", started.text)
    assert (started.code, started.err) == (0, b"")
    assert cli("wait", started.text.split()[3]).code == 0
    check_sorted(folder)


def test_query_and_stop(cli: Program) -> None:
    job = cli.start("-command", "sleep", "600")
    running = cli("query", job)
    assert running.text.splitlines()[0] == f"job with id {job} is running."
    assert (running.code, running.err) == (0, b"")
    stopped = cli("stop", job)
    assert (stopped.code, stopped.text) == (0, f"Success! job with id {job} stopped.\n")
    assert cli("query", job).text.splitlines()[0] == f"job with id {job} has stopped."
    assert cli("stop", job).text == f"Success! job with id {job} stopped.\n"


def test_stream(cli: Program, folder: Path) -> None:
    job = cli.start("-command", "cat", "largefile.txt")
    streamed = cli("stream", job)
    assert (streamed.code, streamed.err) == (0, b"")
    assert streamed.out == (folder / "largefile.txt").read_bytes()


@pytest.mark.parametrize(
    "words",
    [
        ["-command", "ls", "-la /tmp"],
        ["--command", "ls", "-la '/tmp'"],
        ["-command=ls", "-la /tmp"],
        ["--cwd", "/", "-command", "ls", "-la /tmp", "--merge"],
        ["-command", "ls", "--cwd", "/", "-l -a /tmp"],
        ["-command", "ls", "--all -l /tmp"],
        ["-command", "ls", "-la", "--", "/tmp"],
    ],
)
def test_arguments_may_begin_with_a_dash(cli: Program, words: list[str]) -> None:
    listed = cli("run", *words)
    assert listed.code == 0, listed
    assert listed.text.startswith("total ")
    assert "..\n" in listed.text
