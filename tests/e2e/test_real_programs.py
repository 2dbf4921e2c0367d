"""Real programs as jobs: what they print, how they end and what they make is what they do without us."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from client.blocking import Client
from tests.harness import PATIENCE
from wire.messages import STDERR, STDOUT, Output

#: What a job has of its server's environment: README, "How a job runs".
INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE", "TZ")
SOURCES = 20
LINES = 1_000_000


def c_project(folder: Path) -> None:
    """A program of many files, one of which the compiler warns of; `make` prints its commands."""
    calls = "".join(f"    total += part{n}({n});\n" for n in range(SOURCES))
    declared = "".join(f"int part{n}(int);\n" for n in range(SOURCES))
    (folder / "parts.h").write_text(declared)
    for n in range(SOURCES):
        unused = "    int unused;\n" if n == 7 else ""
        body = f"{unused}    return n * {n} + {n};\n"
        (folder / f"part{n}.c").write_text(f'#include "parts.h"\nint part{n}(int n) {{\n{body}}}\n')
    (folder / "main.c").write_text(
        '#include <stdio.h>\n#include "parts.h"\n'
        f'int main(void) {{\n    int total = 0;\n{calls}    printf("%d\\n", total);\n    return 0;\n}}\n'
    )
    objects = " ".join(["main.o", *(f"part{n}.o" for n in range(SOURCES))])
    (folder / "Makefile").write_text(
        f"CFLAGS = -O1 -Wall\nall: program\n\t./program\nprogram: {objects}\n\t$(CC) -o $@ $^\n"
        f"{objects}: parts.h\n"
    )


def package(folder: Path) -> None:
    """A Python package that pip can build with what is here."""
    (folder / "parcel").mkdir()
    (folder / "parcel/__init__.py").write_text("CONTENTS = 42\n")
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "parcel"\nversion = "1.2"\n'
    )


def suite(folder: Path) -> None:
    """A test suite, of which one test fails."""
    (folder / "conftest.py").write_text("")
    tests = "".join(f"def test_{n}():\n    assert {n} != 13\n" for n in range(40))
    (folder / "test_numbers.py").write_text(f"import sys\n\n{tests}")


def tree(folder: Path) -> None:
    """Some folders of files."""
    for n in range(300):
        path = folder / f"tree/{n % 7}/{n}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([n % 256]) * (n * 37))


def numbers(folder: Path) -> None:
    """Many lines in no order, each once."""
    (folder / "numbers").write_text("".join(f"{n * 7919 % 1_000_003}\n" for n in range(LINES)))


@dataclass(frozen=True)
class Case:
    """A program, and what it works on.

    Args:
        make: makes its folder's files.
        argv: its command line.
        code: what it exits with.
        varies: what of its output is another each time: a time.
    """

    make: Callable[[Path], None]
    argv: tuple[str, ...]
    code: int = 0
    varies: bytes | None = None


PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir")
TARGET = ("--target", "installed", ".")
TAR = "tar --sort=name --mtime=@0 -cvf - tree | sha256sum"
CASES = {
    "make and gcc": Case(c_project, ("make",)),
    "pip --version": Case(package, (*PIP, "--version")),
    "pip install": Case(
        package,
        (*PIP, "install", "-q", "--no-index", "--no-deps", "--no-build-isolation", "--no-compile", *TARGET),
    ),
    "pytest": Case(
        suite, (sys.executable, "-m", "pytest", "-p", "no:cacheprovider"), code=1, varies=rb"in [0-9.]+s"
    ),
    "tar and sha256sum": Case(tree, ("sh", "-c", TAR)),
    "sort": Case(numbers, ("sort", "-n", "numbers")),
}


@dataclass(frozen=True)
class Outcome:
    """What a program did."""

    code: int | None
    out: bytes
    err: bytes
    files: dict[str, str]


def fresh(folder: Path, case: Case) -> None:
    """Make the folder anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    case.make(folder)


def files(folder: Path) -> dict[str, str]:
    """Every file's name, mode and digest; but those that hold times, which Python's compiler makes."""
    digest = hashlib.sha256
    return {
        str(path.relative_to(folder)): f"{path.stat().st_mode:o} {digest(path.read_bytes()).hexdigest()}"
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
    }


def directly(folder: Path, case: Case, environment: dict[str, str]) -> Outcome:
    """Run it ourselves."""
    done = subprocess.run(
        case.argv,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=3 * PATIENCE,
        umask=0o022,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr, files(folder))


def as_a_job(folder: Path, case: Case, client: Client) -> Outcome:
    """Have the server run it."""
    got = {STDOUT: bytearray(), STDERR: bytearray()}
    job = client.start(case.argv, cwd=folder, seconds=3 * PATIENCE)
    with client.stream(job.id) as stream:
        for piece in stream:
            assert isinstance(piece, Output)
            got[piece.stream] += piece.data
    assert stream.job.output == sum(map(len, got.values()))
    client.remove(job.id)
    return Outcome(stream.job.exit_code, bytes(got[STDOUT]), bytes(got[STDERR]), files(folder))


@pytest.mark.parametrize("name", CASES)
def test_it_does_what_it_does_without_us(name: str, admin: Client, tmp_path: Path) -> None:
    case = CASES[name]
    for program in ("make", "gcc", "tar", "sha256sum"):
        if program in name and shutil.which(program) is None:
            pytest.skip(f"NOT TESTED: there is no {program} here; install it")
    folder = tmp_path / "work"
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
    fresh(folder, case)
    right = directly(folder, case, environment)
    fresh(folder, case)
    found = as_a_job(folder, case, admin)
    assert right.code == case.code, right
    assert found.code == right.code
    assert said(found.out, case) == said(right.out, case)
    assert said(found.err, case) == said(right.err, case)
    assert found.files == right.files


def said(text: bytes, case: Case) -> bytes:
    """What a program printed, without what varies; by its digest if it is too long for people."""
    same = text if case.varies is None else re.sub(case.varies, b"", text)
    return same if len(same) < 100_000 else b"%d bytes, %s" % (len(same), hashlib.sha256(same).digest())
