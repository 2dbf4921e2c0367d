"""The README is true: its blocks marked ``test`` run and print what it says, its tables match the code."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import pytest

from certs.authority import issue
from certs.roles import DEFAULT_ARC, Role
from client.cli.commands import app
from client.cli.exits import Exit
from client.cli.words import VALUED
from tests.cli.program import ROOT, Program, bare
from tests.harness import PATIENCE, aborting, next_line, serve
from tests.tlshelp import authority, key, make_directory, save
from wire.jobs import CauseKind, Status, Usage
from wire.limits import Limits
from worker.audit import Event
from worker.methods import METHODS
from worker.process_spec import DEFAULT_PATH, INHERITED

README = (ROOT / "README.md").read_text()
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
DEFAULT_ADDRESS = "127.0.0.1:8443"


class Block(NamedTuple):
    """A fenced block marked ``test``: its language, its label if it has one, and its text."""

    language: str
    label: str
    text: str
    follows: str


BLOCKS = [
    Block(*found)
    for found in re.findall(
        r"^```(\w+) test ?(\w*)\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", README, re.DOTALL | re.MULTILINE
    )
]


def labelled(label: str) -> str:
    (block,) = (block for block in BLOCKS if block.label == label)
    return block.text


def of_language(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language and not block.label]


@dataclass
class Place:
    """Somebody's home and working directory, where what the README prints is typed."""

    folder: Path
    environment: dict[str, str]

    def type(self, script: str) -> str:
        """Run a script as a shell does, and return what it prints."""
        done = subprocess.run(
            ["sh", "-u", "-c", script],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done
        return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A home in which the quick start has made certificates and runs its server."""
    home = tmp_path_factory.mktemp("home")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {name: value for name, value in bare().items() if name != "XDG_CONFIG_HOME"} | {
        "HOME": str(home),
        "PATH": path,
        "PYTHONPATH": str(ROOT),
        # The README needs neither: its server has the default port.
        "WORKER_SERVICE_LISTEN": address,
        "WORKER_SERVICE_SERVER": address,
    }
    place = Place(home, environment)
    place.type(labelled("certs"))
    with subprocess.Popen(
        labelled("serve").split(), cwd=home, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stderr is not None
            with aborting(process):
                assert any(b'"listening"' in line for line in process.stderr)
            yield place
        finally:
            process.terminate()
            _, log = process.communicate(timeout=PATIENCE)
        assert b'"ended"' in log.splitlines()[-1]


def test_the_first_commands_are_those_of_the_build_machine() -> None:
    line = "python3 -m venv .venv && .venv/bin/pip install -q rust-just && .venv/bin/just {}"
    for recipe in ("demo", "test"):
        assert f"```sh\n{line.format(recipe)}\n```" in README
    assert line.format("test") in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize("block", of_language("console"), ids=lambda block: block.text.splitlines()[0])
def test_sessions(place: Place, block: Block) -> None:
    """Ids differ from run to run, so those printed are matched, and put into the commands that follow."""
    ids: dict[str, str] = {}
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        for shown, real in ids.items():
            command = command.replace(shown, real).replace(shown[:8], real)
        printed = place.type(command)
        for shown, real in zip(UUID.findall(expected), UUID.findall(printed), strict=False):
            ids.setdefault(shown, real)
        for shown, real in ids.items():
            expected = expected.replace(shown, real)
        if expected.endswith("...\n"):
            expected = expected.removesuffix("...\n")
            printed = printed[: len(expected)]
        assert printed == expected, command
    assert len(ids) == len(set(UUID.findall(block.text)))


@pytest.mark.parametrize("block", of_language("python"), ids=["blocking", "trio"])
def test_library_examples(place: Place, block: Block) -> None:
    code = block.text.replace(DEFAULT_ADDRESS, place.environment["WORKER_SERVICE_SERVER"])
    assert code != block.text
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=place.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, block.follows, "")


def test_the_openssl_recipe(place: Place, tmp_path: Path) -> None:
    Place(tmp_path, place.environment).type(f"set -e\n{labelled('openssl')}")
    made = {f"{name}.{kind}" for name in ("ca", "server", "admin", "user") for kind in ("crt", "key")}
    assert {path.name for path in tmp_path.iterdir()} == made | {"empty.cnf"}
    for name, purpose, days in (("server", "sslserver", 365), ("admin", "sslclient", 45)):
        command = [
            "openssl",
            "verify",
            "-x509_strict",
            "-CAfile",
            "ca.crt",
            "-purpose",
            purpose,
            f"{name}.crt",
        ]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=PATIENCE)
        for seconds, code in ((days * 86400 - 3600, 0), (days * 86400 + 3600, 1)):
            check = ["openssl", "x509", "-in", f"{name}.crt", "-noout", "-checkend", str(seconds)]
            done = subprocess.run(check, cwd=tmp_path, check=False, capture_output=True, timeout=PATIENCE)
            assert done.returncode == code
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in made if name.endswith("key")} == {0o600}
    with serve(tmp_path) as running:
        assert Program(running.environment())("run", "--", "echo", "hello").out == b"hello\n"
        assert Program(running.environment("user"))("start", "--", "true").code == Exit.DENIED
        assert Program(running.environment("user", "wss://"))("list").code == Exit.OK


def test_the_rotation_of_an_authority(place: Place, tmp_path: Path) -> None:
    """With a server that runs all the while, and a stream through all of it but the end."""
    home = Place(tmp_path, place.environment | {"WORKER_SERVICE_CERTS": ""})
    old = make_directory(tmp_path / "old")
    for name in ("ada", "eve"):
        save(old, **{name: issue(authority(), name, role=Role.USER, key=key(name))})
    home.type("mkdir server ada eve")
    for name, files in (("server", "server"), ("ada", "ada"), ("eve", "eve"), ("server", "admin")):
        home.type(f"cp old/ca.crt old/{files}.crt old/{files}.key {name}/")
    steps = re.split(r"(?m)^# \d\. ", labelled("rotation"))[1:]
    with serve(tmp_path / "server") as running:
        admin, ada, eve = (
            Program(running.environment(name) | {"WORKER_SERVICE_CERTS": str(tmp_path / folder)})
            for name, folder in (("admin", "server"), ("ada", "ada"), ("eve", "eve"))
        )
        job = admin.start("--", "sh", "-c", "echo ready; sleep 600")
        with eve.begin("stream", job) as following:
            assert next_line(following) == b"ready\n"
            for reloads, step in enumerate(steps):  # each but the first changes what the server has
                assert following.poll() is None
                home.type(f"set -e\n# {step}")
                if reloads:
                    running.logged("certificates were reloaded", reloads)
                assert ada("list").code == Exit.OK
            _, err = following.communicate(timeout=PATIENCE)
        assert following.returncode == Exit.TLS
        assert b"is not signed by an authority that this server trusts: have a new one issued." in err
        assert eve("list").code == Exit.TLS


def table(heading: str) -> dict[str, str]:
    """The first table below a heading: its first column, and the rest of each row."""
    below = README.partition(f"# {heading}\n")[2]
    rows = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    assert rows is not None
    cells = [line.strip("|\n").partition("|") for line in rows[0].splitlines()[2:]]
    return {first.strip(): rest for first, _, rest in cells}


def test_the_table_of_exit_codes() -> None:
    numbers = {f"{code:d}" for code in Exit if code is not Exit.SIGNAL} | {f"{Exit.SIGNAL:d} + n"}
    assert table("Exit codes").keys() == numbers


def test_the_table_of_commands() -> None:
    names = {row.strip("`").split()[0] for row in table("Commands")}
    assert names == {name for name in app if not name.startswith("-")}


def test_every_flag_is_there() -> None:
    flags = VALUED | {"--merge", "--json", "--grace", "--listen", "--arc", "--dir", "--san", "--force"}
    flags |= {"--interval", "--once", "--patience", "--offset", "--tail", "--tail-bytes", "--since"}
    flags |= {"--no-follow", "--stdout", "--stderr", "--output-memory", "--job-memory", "--spill-dir"}
    flags |= {"--spill-limit", "--overflow", "--retain", "--stall-timeout", "--audit", "--audit-required"}
    flags |= {"--role", "--days", "--serial", "--new-key", "--name", "--p12"}
    assert [flag for flag in sorted(flags) if not re.search(rf"[`\[ ]{flag}\b", README)] == []


def test_what_a_job_inherits() -> None:
    paragraph = README.partition("**Environment.**")[2].partition("**Directory.**")[0]
    names, _, rest = paragraph.partition("from the server")
    assert tuple(re.findall(r"`(\w+)`", names)) == INHERITED
    assert f"`{DEFAULT_PATH}`" in rest


def test_the_words_of_a_job() -> None:
    rows = table("What is told of a job")
    assert re.findall(r"`(\w+)`", rows["`status`"]) == [status.value for status in Status]
    kinds = rows["`cause`"].partition("(")[2].partition(")")[0]
    assert set(re.findall(r"`(\w+)`", kinds)) == {kind.value for kind in CauseKind}


def test_the_numbers_of_a_job() -> None:
    rows = table("What is told of a job")
    assert rows.keys() >= {"`notes`"}
    for name, record in (("limits", Limits), ("usage", Usage)):
        listed = set(re.findall(r"`(\w+)`", rows[f"`{name}`"])) - {"query"}
        assert listed == {field.name for field in fields(record)}


def test_the_audit_log() -> None:
    section = README.partition("## Audit\n")[2].partition("\n## ")[0]
    events = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", section.partition("| field |")[0], re.MULTILINE)
    assert [name for row in events for name in re.findall(r"`(\w+)`", row)] == [
        event.value for event in Event
    ]
    example = re.search(r"^```json\n(.*)\n```$", section, re.MULTILINE)
    assert example is not None
    assert set(json.loads(example[1])) <= set(re.findall(r"`(\w+)`", section))


def test_the_roles() -> None:
    below = README.partition("The role is an extension")[2]
    for number, role in enumerate(("Admin", "User"), start=1):
        row = re.search(rf"^\| {role} \|(.*)\|(.*)\|$", below, re.MULTILINE)
        assert row is not None
        assert f"`{DEFAULT_ARC}.{number}`" in row[1]
        allowed = {name for name, method in METHODS.items() if role in {role.value for role in method.roles}}
        assert set(re.findall(r"`(\w+)`", row[2])) == allowed


def test_its_links_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in headings
        else:
            assert (ROOT / target).is_file(), target
