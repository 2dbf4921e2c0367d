"""The audit passes only where every locked package was looked at, and says what was not."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.audit import judge

ROOT = Path(__file__).parents[1]
CONSTRAINTS = """\
# Every dependency, exact and hashed.
msgpack==1.1.2 \\
    --hash=sha256:00
    # via worker-service (pyproject.toml)
trio==0.35.0 \\
    --hash=sha256:01
Zope.Interface==7.0 \\
    --hash=sha256:02
"""
UNREACHED = "Dependency not found on PyPI and could not be audited: {0} ({1})"


def clean(name: str, version: str) -> dict[str, Any]:
    return {"name": name, "version": version, "vulns": []}


def skipped(name: str, version: str) -> dict[str, Any]:
    return {"name": name, "skip_reason": UNREACHED.format(name, version)}


def flawed(name: str, version: str, *fixed: str) -> dict[str, Any]:
    flaw = {"id": "PYSEC-2026-1", "fix_versions": list(fixed), "aliases": [], "description": "bad"}
    return {"name": name, "version": version, "vulns": [flaw]}


def report(*dependencies: dict[str, Any]) -> str:
    return json.dumps({"dependencies": dependencies, "fixes": []})


CLEAN = (clean("msgpack", "1.1.2"), clean("trio", "0.35.0"), clean("zope-interface", "7.0"))


def test_a_pass_says_how_many_were_looked_at() -> None:
    verdict = judge(report(*CLEAN), CONSTRAINTS, build_machine=False)
    assert verdict.code == 0
    assert verdict.lines == ("audit: no known vulnerability in the 3 packages that were looked at.",)


@pytest.mark.parametrize("build_machine", [False, True])
def test_a_report_in_which_all_was_skipped_is_no_pass(build_machine: bool) -> None:
    """What pip-audit 2.10 writes, and exits with 0, where it has no way to its service."""
    entries = (skipped("msgpack", "1.1.2"), skipped("trio", "0.35.0"), skipped("zope-interface", "7.0"))
    verdict = judge(report(*entries), CONSTRAINTS, build_machine=build_machine)
    assert verdict.code == (0 if build_machine else 1)
    text = "\n".join(verdict.lines)
    assert "NOT AUDITED: 3 of 3 locked packages were not looked at. This is no pass." in text
    assert "3 of them: Dependency not found on PyPI and could not be audited" in text
    assert "no known" not in text


@pytest.mark.parametrize("build_machine", [False, True])
def test_a_report_in_which_some_were_skipped_is_no_pass(build_machine: bool) -> None:
    verdict = judge(
        report(*CLEAN[:2], skipped("zope-interface", "7.0")), CONSTRAINTS, build_machine=build_machine
    )
    assert verdict.code == (0 if build_machine else 1)
    assert "NOT AUDITED: 1 of 3" in verdict.lines[0]


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "no JSON", report(), report(*CLEAN[:2])])
def test_what_is_not_in_the_report_was_not_looked_at(text: str) -> None:
    verdict = judge(text, CONSTRAINTS, build_machine=False)
    assert verdict.code == 1
    assert "pip-audit did not report on it" in "\n".join(verdict.lines)


@pytest.mark.parametrize("build_machine", [False, True])
@pytest.mark.parametrize(("fixed", "remedy"), [(("2.0",), "version 2.0 has it no more"), ((), "no version")])
def test_a_vulnerability_fails_everywhere(fixed: tuple[str, ...], remedy: str, build_machine: bool) -> None:
    entries = (*CLEAN[1:], flawed("msgpack", "1.1.2", *fixed))
    verdict = judge(report(*entries), CONSTRAINTS, build_machine=build_machine)
    assert verdict.code == 1
    (line,) = verdict.lines
    assert "msgpack 1.1.2 has PYSEC-2026-1" in line
    assert remedy in line


def test_what_is_locked_for_other_machines_is_named_and_fails_nothing() -> None:
    constraints = CONSTRAINTS + "colorama==0.4.6 ; sys_platform == 'win32' \\\n    --hash=sha256:03\n"
    verdict = judge(report(*CLEAN), constraints, build_machine=False)
    assert verdict.code == 0
    assert verdict.lines[0] == "audit: for other machines, and not looked at here: colorama."


def test_an_empty_lock_is_no_pass() -> None:
    assert judge(report(*CLEAN), "# nothing\n", build_machine=True).code == 1


def test_every_package_of_our_lock_is_counted() -> None:
    text = (ROOT / "constraints.txt").read_text()
    names = {line.split("==")[0] for line in text.splitlines() if "==" in line and line[0] not in " #"}
    first, *_, last = judge("", text, build_machine=False).lines
    counted = re.search(r"NOT AUDITED: (\d+) of \1 locked", first)
    assert counted is not None
    assert int(counted[1]) + len(last.partition("here: ")[2].split(", ")) == len(names)
