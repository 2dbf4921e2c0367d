"""Owns how a server's audit log is held against the model, once the server has ended."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from tests.soak.follow import expect
from tests.soak.model import Model

#: What becomes of a start that was allowed: one of these.
OUTCOMES = ("job_started", "job_refused", "request_failed")


def check(path: Path, model: Model) -> int:
    """Check an audit log, line by line; return how many there are.

    Raises:
        DefectError: a line is missing, doubled, or differs from what clients were told.
    """
    allowed: dict[tuple[int, int], list[str]] = {}
    started: dict[str, tuple[int, int]] = {}
    ends: dict[str, dict[str, Any]] = {}
    removed: Counter[str] = Counter()
    denied = count = 0
    with path.open() as file:
        for count, text in enumerate(file, 1):
            line = json.loads(text)
            event, request = line["event"], (line.get("connection"), line.get("request"))
            expect(line.get("seq") == count, f"line {count} of the audit log is numbered {line.get('seq')}")
            if event == "request" and line.get("method") == "start":
                denied += line["outcome"] == "denied"
                if line["outcome"] == "allowed":
                    expect(request not in allowed, f"two decisions on one request: {line}")
                    allowed[request] = []
            elif event in OUTCOMES and line.get("method") == "start":
                expect(request in allowed, f"an outcome without a decision: {line}")
                allowed[request].append(event)
                if event == "job_started":
                    expect(line["job"] not in started, f"a job was started twice: {line}")
                    started[line["job"]] = request
            elif event in ("job_ended", "job_lost"):
                expect(line["job"] not in ends, f"a job ended twice: {line}")
                ends[line["job"]] = line
            elif event == "job_removed":
                removed[line["job"]] += 1
    expect(
        denied <= model.denied + len(model.open), f"{denied} denied starts, and {model.denied} were told so"
    )
    for request, outcomes in allowed.items():
        expect(len(outcomes) == 1, f"the allowed start {request} has {len(outcomes)} outcomes: {outcomes}")
    expect(
        ends.keys() == started.keys(),
        f"started but not ended, or the reverse: {ends.keys() ^ started.keys()}",
    )
    for known in model.jobs.values():
        expect(known.id in started, f"no line says that it was started: {known}")
        expect(
            removed[known.id] == known.removed, f"{removed[known.id]} lines say that it was removed: {known}"
        )
        if (final := known.final) is not None and final.cause is not None:
            line = ends[known.id]
            told = (final.status, final.exit_code, final.signal, final.cause.kind, final.cause.by)
            written = (line["outcome"], *(line.get(name) for name in ("exit_code", "signal", "cause", "by")))
            expect(told == written, f"the audit log says {written}, clients were told {told}: {known}")
    return count
