"""Owns the `doctor` command: what this host can enforce, tried for real, and the remedy for the rest."""

import dataclasses
import datetime
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from certs.contexts import default_directory
from certs.errors import CertsError
from wire.limits import Limits

from .ceilings import CONTROLLER_OF, LimitRefusedError, apply, check_enforceable
from .disks import whole_disks
from .hierarchy import CgroupError, Hierarchies, open_hierarchies

#: A ceiling of each kind to try; they limit nothing, as no process is in the cgroup that gets them.
_TRIALS = {
    "cpu": ("--cpu-limit", 500),
    "memory": ("--memory-limit", 2**26),
    "disk_ops": ("--disk-limit OPERATIONS", 100),
    "disk_bytes": ("--disk-limit BYTES", 2**20),
    "pids": ("--pids-limit", 50),
    "cpu_weight": ("--cpu-weight", 100),
    "disk_weight": ("--disk-weight", 100),
}
_OPTIONAL = ("cpu_weight", "disk_weight")

app = App(name="doctor", help="Show what this host can enforce, controller by controller.")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; ``needed`` says that serving without it means refusing limits."""

    name: str
    ok: bool
    detail: str
    needed: bool = True


@app.default
def doctor(
    *,
    cgroup_parent: str | None = None,
    certs: Annotated[Path | None, Parameter(env_var="WORKER_SERVICE_CERTS")] = None,
    json_: Annotated[bool, Parameter(name="--json", negative="", show_default=False)] = False,
) -> int:
    """Try every limit on a cgroup without processes, and say what a server started here could enforce.

    Run it as the server runs: as the same user, in the same unit. Exits with 1 if a ceiling would be refused,
    a certificate has ended, or other users of this host can get at the server's key.

    Parameters
    ----------
    cgroup_parent:
        What `serve` would be given.
    certs:
        Likewise; their ends are told from 14 days before.
    json_:
        One JSON object a line instead.
    """
    try:
        with open_hierarchies(cgroup_parent) as hierarchies:
            directory = certs or default_directory()
            findings = [*examine(hierarchies), *certificates(directory), *private(directory)]
    except CgroupError as error:
        sys.stderr.write(f"worker-service: {error}\n")
        return 7
    for finding in findings:
        if json_:
            sys.stdout.write(json.dumps(dataclasses.asdict(finding)) + "\n")
        else:
            mark = "yes" if finding.ok else "NO" if finding.needed else "no"
            sys.stdout.write(f"{finding.name:24} {mark:4} {finding.detail}\n")
    return 0 if all(finding.ok for finding in findings if finding.needed) else 1


def examine(hierarchies: Hierarchies) -> list[Finding]:
    """Look at a host through the subtree that a server would have."""
    findings = [_place(hierarchies), _killing(hierarchies)]
    findings += [_trial(hierarchies, limit) for limit in _TRIALS]
    return [*findings, _pressure(hierarchies)]


def _place(hierarchies: Hierarchies) -> Finding:
    tracking = hierarchies.tracking
    if tracking is None:
        return Finding("cgroups", False, hierarchies.missing["cpu"] + ".")
    versions = {controller.version for controller in hierarchies.controllers.values()}
    kind = "v1"
    if (tracking / "cgroup.events").exists():
        kind = "hybrid: v2, with v1 controllers" if 1 in versions else "v2"
    moved = "; the server moves into a leaf of it" if hierarchies.leaf is not None else ""
    return Finding("cgroups", True, f"{kind}; jobs are below {tracking.parent}{moved}.")


def _killing(hierarchies: Hierarchies) -> Finding:
    tracking = hierarchies.tracking
    if tracking is None:
        detail = "A job's processes are found as descendants of a keeper, and killed one by one."
        return Finding("killing a whole job", True, detail, needed=False)
    if (tracking / "cgroup.kill").exists():
        return Finding("killing a whole job", True, "At once, by cgroup.kill.")
    if (tracking / "cgroup.freeze").exists() or (tracking / "freezer.state").exists():
        return Finding("killing a whole job", True, "Frozen, then killed.")
    detail = "Neither cgroup.kill nor a freezer: processes are killed one by one; use Linux 5.14 or newer."
    return Finding("killing a whole job", False, detail, needed=False)


def _trial(hierarchies: Hierarchies, limit: str) -> Finding:
    """Write one limit into a cgroup without processes, and read the kernel's answer."""
    flag, value = _TRIALS[limit]
    limits = Limits(**{limit: value})
    needed = limit not in _OPTIONAL
    name = "trial"
    made: list[Path] = []
    try:
        check_enforceable(hierarchies, limits)
        controller = hierarchies.controllers[CONTROLLER_OF[limit]]
        path = controller.base / name
        path.mkdir()
        made.append(path)
        apply(hierarchies, name, limits)
    except LimitRefusedError as error:
        return Finding(flag, False, str(error), needed)
    except OSError as error:
        return Finding(flag, False, f"{error.filename}: {error.strerror}.", needed)
    finally:
        for path in made:
            path.rmdir()
    detail = f"The {CONTROLLER_OF[limit]} controller, v{controller.version}, in {controller.base.parent}."
    if CONTROLLER_OF[limit] == "io":
        detail = f"{detail[:-1]}, on {', '.join(disk.name for disk in whole_disks())}."
    return Finding(flag, True, detail, needed)


def _pressure(hierarchies: Hierarchies) -> Finding:
    name = "end of thrashing jobs"
    if hierarchies.tracking is not None and (hierarchies.tracking / "memory.pressure").exists():
        return Finding(name, True, "Pressure information shows them.", needed=False)
    detail = "No pressure information: one may go on for minutes; boot with psi=1, and mount cgroup v2."
    return Finding(name, False, detail, needed=False)


def certificates(directory: Path) -> list[Finding]:
    """Look at what a server would find in a directory: what ends soon, or has ended."""
    from certs.trusted import read_terms

    from .trust import WARN_BEFORE

    name = "certificates"
    if not os.path.lexists(directory / "ca.crt"):
        detail = (
            f"None in {directory}: run `worker-service certs init`, or name their directory with --certs."
        )
        return [Finding(name, False, detail, needed=False)]
    try:
        terms = read_terms(directory)
    except CertsError as error:
        return [Finding(name, False, str(error)[:1].upper() + str(error)[1:])]
    now = datetime.datetime.now(datetime.UTC)
    due = [term for term in terms if term.ends - now < WARN_BEFORE]
    if not due:
        first = min(terms, key=lambda term: term.ends)
        detail = f"The first to end in {directory} is {first.file}, on {first.ends:%Y-%m-%d}."
        return [Finding(name, True, detail)]
    return [
        Finding(
            name,
            False,
            f"{term.what[:1].upper()}{term.what[1:]} in {directory / term.file} "
            f"{'ends' if term.ends > now else 'ended'} on {term.ends:%Y-%m-%d}: {term.remedy}.",
            needed=term.ends <= now,
        )
        for term in due
    ]


def private(directory: Path) -> list[Finding]:
    """Look at whether other users of this host can get at the server's key."""
    from certs.exposure import exposures
    from certs.trusted import KEY

    name = "private key"
    if not os.path.lexists(directory / KEY):
        return []
    found = [sentence[:1].upper() + sentence[1:] for sentence in exposures(directory, KEY)]
    detail = f"No other user of this host can read or replace {directory / KEY}."
    return [Finding(name, False, sentence) for sentence in found] or [Finding(name, True, detail)]
