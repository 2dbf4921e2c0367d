"""Owns how a server's audit log is held against the model, once the server has ended."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.soak.follow import expect
from tests.soak.model import Known, Model

#: What becomes of a start that was allowed: one of these.
OUTCOMES = ("job_started", "start_repeated", "job_refused", "request_failed")


@dataclass
class Written:
    """What an audit log says of starts and jobs; a request is its connection's number and its own."""

    lines: int = 0
    denied: int = 0
    #: What became of each start that was allowed.
    allowed: dict[tuple[int, int], list[str]] = field(default_factory=dict)
    started: dict[str, tuple[int, int]] = field(default_factory=dict)
    ends: dict[str, dict[str, Any]] = field(default_factory=dict)
    removed: Counter[str] = field(default_factory=Counter)

    def take(self, line: dict[str, Any]) -> None:
        """Take the next line."""
        self.lines += 1
        expect(line.get("seq") == self.lines, f"line {self.lines} of the audit log is no {line.get('seq')}")
        event, job = line["event"], line.get("job", "")
        if line.get("method") == "start":
            self._take_start(event, line)
        elif line["event"] == "request" and line["outcome"] == "denied":
            self.denied += line.get(
                "requests", 1
            )  # too many to be told one by one; nothing but starts is denied
        if event in ("job_ended", "job_lost"):
            expect(job not in self.ends, f"a job ended twice: {line}")
            self.ends[job] = line
        elif event == "job_removed":
            self.removed[job] += 1

    def _take_start(self, event: str, line: dict[str, Any]) -> None:
        request = (line["connection"], line["request"])
        if event == "request":
            self.denied += line["outcome"] == "denied"
            if line["outcome"] == "allowed":
                expect(request not in self.allowed, f"two decisions on one request: {line}")
                self.allowed[request] = []
        elif event in OUTCOMES:
            expect(request in self.allowed, f"an outcome without a decision: {line}")
            self.allowed[request].append(event)
            if event == "job_started":
                expect(line["job"] not in self.started, f"a job was started twice: {line}")
                self.started[line["job"]] = request


def check(path: Path, model: Model, *, killed: bool) -> int:
    """Check an audit log, line by line; return how many there are.

    Args:
        path: the log.
        model: what clients were told.
        killed: whether its server was killed, and so may have written less than it had told.

    Raises:
        DefectError: a line is missing, doubled, or differs from what clients were told.
    """
    written = Written()
    with path.open() as file:
        for text in file:
            if killed and not text.endswith("\n"):
                break
            written.take(json.loads(text))
    least, most = 0 if model.ending else model.denied, model.denied + len(model.open)
    right = least <= written.denied <= most
    expect(right, f"{written.denied} starts were denied, and from {least} to {most} were told so")
    for request, outcomes in written.allowed.items():
        right = len(outcomes) == 1 or (killed and not outcomes)
        expect(right, f"the allowed start {request} has {len(outcomes)} outcomes: {outcomes}")
    odd = written.ends.keys() - written.started.keys()
    if not killed:
        odd |= written.started.keys() - written.ends.keys()
    expect(not odd, f"jobs that started and did not end, or the reverse: {odd}")
    for known in model.jobs.values():
        _check_job(written, known, killed=killed, ending=model.ending)
    return written.lines


def _check_job(written: Written, known: Known, *, killed: bool, ending: bool) -> None:
    """Check what is said of one job."""
    expect(killed or known.id in written.started, f"no line says that it was started: {known}")
    lines = written.removed[known.id]
    # A removal that was cut by the server's end may have been done, and is done for its successor.
    right = lines == (known.removal is not None) or (ending and lines <= 1)
    expect(right, f"{lines} lines say that it was removed: {known}")
    final, line = known.final, written.ends.get(known.id)
    if final is None or final.cause is None or (line is None and killed):
        return
    expect(line is not None, f"no line says that it ended: {known}")
    assert line is not None
    told = (final.status, final.exit_code, final.signal, final.cause.kind, final.cause.by)
    said = (line["outcome"], *(line.get(name) for name in ("exit_code", "signal", "cause", "by")))
    expect(told == said, f"the audit log says {said}, clients were told {told}: {known}")
