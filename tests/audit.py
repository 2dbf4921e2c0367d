"""Owns what `just audit` makes of pip-audit's report: whether what is locked was looked at, and is clean.

Where it cannot reach its advisory service, pip-audit says "No known vulnerabilities found", skips every
package and exits with 0. That is no pass. So the packages that were looked at are counted here, against those
that are locked; what was not looked at fails the audit, or, on a build machine (CI is set), is said loudly.
"""

import json
import os
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import Marker

#: A line of constraints.txt that locks a package, with the marker that says for which machines.
LOCKED = re.compile(r"^([A-Za-z0-9._-]+)==[^\s;\\]+(?: ; ([^\\]*?))?(?: \\)?$", re.MULTILINE)


@dataclass(frozen=True)
class Verdict:
    """What is to be printed, and the exit code."""

    lines: tuple[str, ...]
    code: int


def judge(report: str, constraints: str, *, build_machine: bool) -> Verdict:
    """Judge a report of pip-audit.

    Args:
        report: what it wrote with ``--format json``; empty if it wrote nothing.
        constraints: the text of constraints.txt.
        build_machine: whether what was not audited is only said.
    """
    lines = [(_name(name), marker) for name, marker in LOCKED.findall(constraints)]
    locked = {name for name, marker in lines if not marker or Marker(marker).evaluate()}
    elsewhere = {name for name, _ in lines} - locked
    if not locked:
        return Verdict(("audit: constraints.txt locks nothing; `just lock` makes it.",), 1)
    try:
        listed = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        listed = []
    found = [
        f"audit: {entry['name']} {entry['version']} has {flaw['id']}; {_remedy(flaw['fix_versions'])}."
        for entry in listed
        for flaw in entry.get("vulns", ())
    ]
    checked = {_name(entry["name"]) for entry in listed if "vulns" in entry} & locked
    reasons = {_name(entry["name"]): entry["skip_reason"] for entry in listed if "skip_reason" in entry}
    missed = sorted(locked - checked)
    said = [*found]
    if missed:
        without = "pip-audit did not report on it"
        kinds = Counter(_kind(reasons.get(name, without), name) for name in missed)
        said += [
            f"audit: NOT AUDITED: {len(missed)} of {len(locked)} locked packages were not looked at. "
            f"This is no pass.",
            *(f"audit:   {count} of them: {reason}" for reason, count in kinds.most_common()),
            "audit: see that pip-audit reaches its advisory service, and run `just audit` again.",
        ]
    if elsewhere:
        said.append(f"audit: for other machines, and not looked at here: {', '.join(sorted(elsewhere))}.")
    if not found and not missed:
        said.append(f"audit: no known vulnerability in the {len(checked)} packages that were looked at.")
    return Verdict(tuple(said), 1 if found or (missed and not build_machine) else 0)


def _name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _kind(reason: str, name: str) -> str:
    """A reason without what is of one package, so that like ones are counted together."""
    return re.sub(rf":? {re.escape(name)}\b.*", "", reason, flags=re.IGNORECASE)


def _remedy(versions: list[str]) -> str:
    if not versions:
        return "there is no version without it yet"
    return f"version {' or '.join(versions)} has it no more: `just lock --upgrade`"


def main() -> int:
    """Judge the report that is named, beside the constraints file that is named."""
    report, constraints = map(Path, sys.argv[1:])
    verdict = judge(
        report.read_text() if report.exists() else "",
        constraints.read_text(),
        build_machine=bool(os.environ.get("CI")),
    )
    sys.stdout.write("".join(line + "\n" for line in verdict.lines))
    return verdict.code


if __name__ == "__main__":
    sys.exit(main())
