"""Owns what people and programs read of jobs: sentences, details, tables and JSON."""

import dataclasses
import json
import os
import shlex
import signal
import time
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from wire.jobs import JobStatus, Status, Usage
from wire.limits import Limits


def headline(job: JobStatus) -> str:
    """The first line of `query`."""
    match job.status:
        case Status.RUNNING:
            state = "is running"
        case Status.EXITED | Status.SIGNALED:
            state = "has stopped"
        case unknown:
            state = f"is {text(unknown)}"
    return f"job with id {job.id} {state}."


def details(job: JobStatus) -> str:
    """All that is known of a job, a line each."""
    rows = [
        ("command", command(job)),
        ("status", status(job)),
        ("pid", str(job.pid)),
        ("started", f"{_local(job.started)} by {text(job.owner)}"),
    ]
    if job.ended is not None:
        rows.append(("ended", f"{_local(job.ended)}, after {duration(job.ended - job.started)}"))
    if job.user is not None:
        rows.append(("user", text(job.user)))
    if job.cwd is not None:
        rows.append(("directory", text(os.fsdecode(job.cwd))))
    gone = f", of which the first {size(job.dropped)} were dropped" if job.dropped else ""
    rows.append(("output", size(job.output) + gone))
    if job.limits:
        rows.append(("limits", limits(job.limits)))
    if job.usage is not None:
        rows += _used(job.usage)
    rows += [("note", text(note)) for note in job.notes]
    return "".join(f"  {name + ':':11}{value}\n" for name, value in rows)


def _used(usage: Usage) -> list[tuple[str, str]]:
    """The rows of `details` on what a job used: only what is known."""
    cpu = f"{usage.cpu_user + usage.cpu_system:.2f} s of CPU"
    if usage.throttled:
        cpu += f", held back {usage.throttled:.2f} s by its CPU limit"
    memory = [
        f"{size(count)} {words}"
        for count, words in (
            (usage.memory, "now"),
            (usage.memory_peak, "at most"),
            (usage.max_rss, "in its largest process"),
        )
        if count is not None
    ]
    disk = [
        f"{size(count)} {words}"
        for count, words in ((usage.disk_read, "read"), (usage.disk_written, "written"))
        if count is not None
    ]
    disk += [
        f"{count} {words}"
        for count, words in ((usage.disk_reads, "reads"), (usage.disk_writes, "writes"))
        if count is not None
    ]
    rows = [("used", cpu), ("memory", ", ".join(memory)), ("disk", ", ".join(disk))]
    if usage.tasks is not None:
        rows.append(("tasks", str(usage.tasks)))
    return [(name, words) for name, words in rows if words]


def table(jobs: Iterable[JobStatus], now: float | None = None) -> str:
    """A line for each job, in columns; ``now`` is the server's Unix time, our own if that is not known."""
    rows = [("ID", "STATUS", "PID", "STARTED", "OUTPUT", "COMMAND")]
    now = time.time() if now is None else now
    for job in jobs:
        age = duration(max(0.0, now - job.started)) + " ago"
        rows.append((job.id, outcome(job), str(job.pid), age, size(job.output), command(job)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    lines = []
    for *cells, last in rows:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        lines.append("  ".join([*padded, last]) + "\n")
    return "".join(lines)


def as_json(job: JobStatus) -> dict[str, Any]:
    """A job as plain data for programs. Bytes become text with surrogate escapes, times RFC 3339."""
    cause = None if job.cause is None else dataclasses.asdict(job.cause)
    return {
        "id": job.id,
        "status": str(job.status),
        "pid": job.pid,
        "exit_code": job.exit_code,
        "signal": job.signal,
        "cause": cause,
        "command": [os.fsdecode(word) for word in job.argv],
        "owner": job.owner,
        "user": job.user,
        "started": utc(job.started),
        "ended": None if job.ended is None else utc(job.ended),
        "cwd": None if job.cwd is None else os.fsdecode(job.cwd),
        "output_bytes": job.output,
        "dropped_bytes": job.dropped or 0,
        "limits": job.limits.named() if job.limits else {},
        "usage": None if job.usage is None else dataclasses.asdict(job.usage),
        "notes": list(job.notes),
    }


def json_line(value: object) -> str:
    """One line of JSON."""
    return json.dumps(value) + "\n"


def status(job: JobStatus) -> str:
    """How a job stands, in words: ``signaled by SIGKILL (stopped by admin)``."""
    words = outcome(job)
    if job.cause is None:
        return words
    why = []
    if job.cause.kind != job.status:
        why.append(text(job.cause.kind) + (f" by {text(job.cause.by)}" if job.cause.by else ""))
    if job.cause.detail:
        why.append(text(job.cause.detail))
    return f"{words} ({': '.join(why)})" if why else words


def outcome(job: JobStatus) -> str:
    """How a job stands, without the reason: ``signaled by SIGKILL``."""
    match job.status:
        case Status.EXITED:
            return f"exited with code {job.exit_code}"
        case Status.SIGNALED:
            return f"signaled by {signal_name(job.signal or 0)}"
        case other:
            return text(other)


def signal_name(number: int) -> str:
    """``SIGTERM`` for 15; ``signal 40`` for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def command(job: JobStatus) -> str:
    """The command as a shell would take it, on one line."""
    return text(shlex.join(map(os.fsdecode, job.argv)))


def limits(found: Limits) -> str:
    """A job's ceilings and weights for people."""
    words = {
        "cpu": lambda value: f"{value / 1000:g} CPU",
        "memory": lambda value: f"{size(value)} of memory",
        "disk_ops": lambda value: f"{value} disk operations/s",
        "disk_bytes": lambda value: f"{size(value)}/s of disk",
        "pids": lambda value: f"{value} tasks",
        "cpu_weight": lambda value: f"CPU weight {value}",
        "disk_weight": lambda value: f"disk weight {value}",
    }
    return ", ".join(words[name](value) for name, value in found.named().items())


def text(value: str) -> str:
    """Text that is safe on a terminal: what is not printable is escaped."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in value)


def size(count: float) -> str:
    """Bytes for people, in powers of 1024."""
    unit = "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} days"


def _local(when: float) -> str:
    return datetime.fromtimestamp(when).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def utc(when: float) -> str:
    """A Unix time as RFC 3339 has it, in UTC."""
    # gmtime, so that no zone database is read for a query.
    milliseconds = int(when % 1 * 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(when)) + f".{milliseconds:03}Z"
