"""The soak's model and its reading of the audit log: they take what may be, and nothing else."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.soak import trail
from tests.soak.follow import DefectError
from tests.soak.model import Known, Model
from tests.soak.plans import Plan, zeros
from wire.jobs import Cause, CauseKind, JobStatus, Status

PLAN = zeros(10)
RUNNING = JobStatus("id", Status.RUNNING, 7, (), "admin", 5.0, 3)


def begin(model: Model, plan: Plan = PLAN) -> tuple[Known, JobStatus]:
    """Start a job; what is known of it, and what the server told."""
    token = model.token(plan, "admin")
    status = replace(RUNNING, argv=tuple(word.encode() for word in (*plan.argv, token)))
    return model.started(status), status


def ended(job: JobStatus, **changes: Any) -> JobStatus:
    whole: dict[str, Any] = {
        "status": Status.EXITED,
        "exit_code": 0,
        "output": 10,
        "ended": 6.0,
        "cause": Cause(CauseKind.EXITED),
    }
    return replace(job, **(whole | changes))


WRONG_ENDS: list[dict[str, Any]] = [
    {"exit_code": 1},
    {"output": 9},
    {"output": 11},
    {"cause": Cause(CauseKind.OOM)},
    {"cause": Cause(CauseKind.LOST)},
    {"cause": Cause(CauseKind.STOPPED, by="admin")},
    {"status": Status.SIGNALED, "exit_code": None, "signal": 9},
    {"ended": 4.0},
    {"dropped": 4},
    {"id": "another"},
]


@pytest.mark.parametrize("wrong", WRONG_ENDS)
def test_an_end_that_cannot_be_is_a_defect(wrong: dict[str, Any]) -> None:
    model = Model(drops=False)
    known, status = begin(model)
    with pytest.raises(DefectError):
        model.saw(known, known.before(), ended(status, **wrong))
    model.saw(known, known.before(), ended(status))
    with pytest.raises(DefectError):
        model.saw(known, known.before(), status)  # it runs again
    with pytest.raises(DefectError):
        model.saw(known, known.before(), ended(status, output=10, pid=8))


def test_a_list_has_every_job_once_and_no_other() -> None:
    model = Model(drops=False)
    known, status = begin(model)
    before = model.before()
    model.listed([status], before, 0)
    other = replace(status, id="stranger", argv=(b"true", b"soak-0"))
    for wrong in ([], [status, status], [status, other]):
        with pytest.raises(DefectError):
            model.listed(wrong, before, 0)
    known.remove_asked = True
    model.removed(known)
    model.listed([status], before, 0)  # it was asked for before
    with pytest.raises(DefectError):
        model.listed([status], model.before(), model.removals)


def lines() -> list[dict[str, Any]]:
    """What an audit log says of a job's life."""
    request = {"connection": 1, "request": 2, "method": "start"}
    end = {"outcome": "exited", "exit_code": 0, "cause": "exited"}
    return [
        {"event": "server_started"},
        {"event": "request", "outcome": "allowed", **request},
        {"event": "job_started", "outcome": "done", "job": "id", **request},
        {"event": "job_ended", "job": "id", **request, **end},
        {"event": "job_removed", "outcome": "done", "job": "id", "connection": 1, "request": 3},
        {"event": "server_ended"},
    ]


def without(index: int) -> Callable[[list[dict[str, Any]]], object]:
    return lambda found: found.pop(index)


TAMPERED: dict[str, Callable[[list[dict[str, Any]]], object]] = {
    "no decision": without(1),
    "no outcome": without(2),
    "no end": without(3),
    "no removal": without(4),
    "two outcomes": lambda found: found.insert(2, found[2]),
    "two ends": lambda found: found.insert(3, found[3]),
    "another exit code": lambda found: found[3].update(exit_code=1),
    "another cause": lambda found: found[3].update(cause="stopped", by="admin"),
    "a gap": lambda found: found[4].update(seq=9),
    "denied": lambda found: found.insert(1, found[1] | {"outcome": "denied", "request": 9}),
    "many denied": lambda found: found.insert(1, {"event": "request", "outcome": "denied", "requests": 2}),
}


@pytest.mark.parametrize("name", ["", *TAMPERED])
def test_an_audit_log_is_held_against_what_clients_were_told(name: str, tmp_path: Path) -> None:
    model = Model(drops=False)
    known, status = begin(model)
    model.saw(known, known.before(), ended(status))
    model.removed(known)
    found = lines()
    if name:
        TAMPERED[name](found)
    path = tmp_path / "audit.log"
    text = [json.dumps({"seq": number} | line) for number, line in enumerate(found, 1)]
    path.write_text("\n".join(text) + "\n")
    if name:
        with pytest.raises(DefectError):
            trail.check(path, model, killed=False)
    else:
        assert trail.check(path, model, killed=False) == len(found)
