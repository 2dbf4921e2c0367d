"""Every complaint of the command line in one table, which `pytest -s` prints: situation, exit code, sentence.

`sentences.txt` beside this holds the table, to be read as a whole; where a sentence changes, so does that.
"""

import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from client.cli.exits import Exit
from tests.cli import situations_apart, situations_jobs, situations_own
from tests.cli.misuses import MISUSES
from tests.cli.place import Place
from tests.cli.program import Program, Result
from tests.harness import serve

ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
ADDRESS = re.compile(r"127\.0\.0\.1:\d{4,5}\b(?<!:8443)")
SITUATIONS = situations_jobs.situation | situations_apart.situation | situations_own.situation
TABLE = Path(__file__).with_name("sentences.txt")


@pytest.fixture(scope="module")
def place(shared_certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with (
        serve(shared_certificates, "--max-jobs", "3", "--max-frame", "64K") as server,
        server.connect() as client,
    ):
        ended, stopped = client.start(["sh", "-c", "exit 3"]).id, client.start(["sleep", "600"]).id
        client.wait(ended)
        client.stop(stopped)
        running = client.start(situations_jobs.WAITS).id
        yield Place(server, client, tmp_path_factory.mktemp("place"), ended, stopped, running)


def test_misuses(cli: Program) -> None:
    """These say with which sentence, in `misuses.py`."""
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda misuse: cli(*misuse[0]), MISUSES))
    for (words, sentence), result in zip(MISUSES, results, strict=True):
        sys.stdout.write(f"worker-service {' '.join(words)}\n  {result.code:3}  {sentence}\n")
        assert (result.code, result.out) == (Exit.USAGE, b""), (words, result)
        assert result.sentence == sentence, words


def test_situations(place: Place) -> None:
    table = "".join(
        f"{name}\n  {result.code:3}  {_shown(result, place)}\n"
        for name, result in ((name, provoke(place)) for name, provoke in SITUATIONS.items())
    )
    sys.stdout.write(f"\n{table}")
    assert table == TABLE.read_text()


def _shown(result: Result, place: Place) -> str:
    """What was said, with a name in place of what differs from run to run."""
    said = result.err.decode()
    assert said.endswith(".\n")
    assert all(line.startswith("worker-service: ") for line in said.splitlines())
    said = said.replace("worker-service: ", "", 1).replace("\nworker-service: ", "\n       ").rstrip("\n")
    said = said.replace(str(place.folder), "DIR").replace(str(place.server.certs), "CERTS")
    return ADDRESS.sub("HOST:PORT", ID.sub("JOB", said))
