"""Owns the commands that talk to a server. Each connects, asks, prints, and returns an exit code."""

import os
import signal
import time

from cyclopts import App

from wire.errors import RequestError
from wire.jobs import JobStatus

from . import ending, flags, inlet, live, render, streams
from .exits import Exit, UsageError, exit_code, of_job
from .flags import (
    PATTERN,
    Duration,
    Flag,
    Interval,
    JobId,
    Where,
    Words,
)
from .follow import Which, clock_of, copy
from .running import attend
from .stopper import Stopper
from .waiting import Watch
from .what import What


def _version() -> str:
    from importlib.metadata import version

    return f"worker-service {version('worker-service')}"


app = App(
    name="worker-service",
    help="Run processes on a Linux host for remote clients, over mutual TLS 1.3, each in its own cgroup.",
    version=_version,
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,
)
# By name, so that neither Trio nor cryptography is loaded before one of them is asked for.
app.command("worker.cli:app", name="serve", help="Run the server.")
app.command("worker.doctor:app", name="doctor", help="Show what this host can enforce.")
app.command("certs.cli:app", name="certs", help="Make the certificates of a server and its clients.")

_PLAIN = What()
_HERE = Where()
_ALL = Which()


@app.command(usage=f"Usage: {PATTERN.format('start')}")
def start(*words: Words, what: What = _PLAIN, where: Where = _HERE) -> int:
    """Start a job and print its id.

    The job's command stands behind the flags and a --, and reaches the server word for word; no shell
    looks at it there. There is another form too: start -command COMMAND "ARGUMENT...", whose
    second string is split as a shell splits words.
    """
    what.check("start", words)
    with where.connect() as client:
        job_id = client.new_id()
        try:
            job = what.start(client, words, job_id=job_id)
        except KeyboardInterrupt:
            which = "a job" if job_id is None else f"job {job_id}"
            streams.complain(f"left before the server had answered: {which} may have been started.")
            raise
    _say_notes(job)
    limited = " with resource limits" if job.limits else ""
    streams.put(f"job with id {job.id} started{limited}.\n")
    return Exit.OK


@app.command
def stop(job: JobId, /, *, grace: Duration = None, where: Where = _HERE) -> int:
    """Stop a job and every process it started: SIGTERM, a grace, SIGKILL.

    Parameters
    ----------
    job:
        The job's id or a unique prefix of it.
    grace:
        How long between the two signals: 90 (seconds), 90s, 5m [default: the server's own, 10 unless serve
        was told another].
    """
    pause = flags.seconds("--grace", grace)
    with where.connect() as client:
        asked = client.server_time()
        stopped = client.stop(job, grace=pause)
    streams.put(f"Success! job with id {stopped.id} stopped.\n")
    if ending.was_over(stopped, asked):
        streams.complain(f"note: the job had ended before: {render.status(stopped)}.")
    return Exit.OK


@app.command
def query(job: JobId, /, *, json: Flag = False, where: Where = _HERE) -> int:
    """Show whether a job runs, and all that is known of it.

    Parameters
    ----------
    job:
        The job's id or a unique prefix of it.
    json:
        One JSON object instead.
    """
    with where.connect() as client:
        found = client.query(job)
    _print_job(found, json=json)
    return Exit.OK


@app.command(name="list")
def list_jobs(*, json: Flag = False, where: Where = _HERE) -> int:
    """Show every job since the server's start, oldest first.

    Parameters
    ----------
    json:
        One JSON object a line instead.
    """
    with where.connect() as client:
        jobs = list(client.list())
        now = client.server_time()
    streams.put(
        "".join(render.json_line(render.as_json(job)) for job in jobs) if json else render.table(jobs, now)
    )
    return Exit.OK


@app.command
def wait(job: JobId, /, *, json: Flag = False, where: Where = _HERE) -> int:
    """Wait for a job's end, show it as query does, and exit with the job's own exit code.

    Parameters
    ----------
    job:
        The job's id or a unique prefix of it.
    json:
        One JSON object instead.
    """
    with where.connect() as client, Watch(where, job):
        ended = client.wait(job)
    _print_job(ended, json=json)
    return of_job(ended)


@app.command
def stream(job: JobId, /, *, which: Which = _ALL, where: Where = _HERE) -> int:
    """Show a job's output, from its first byte until the job ends. Ctrl-C leaves; the job goes on.

    If the connection is cut, it is opened again, and the output goes on at the next byte. Exits with 1 if
    some of the output cannot be had any more; stderr then says which.

    Parameters
    ----------
    job:
        The job's id or a unique prefix of it.
    """
    signal.signal(signal.SIGINT, lambda number, frame: _leave(number))
    which.keywords()  # what makes no sense is said before anybody is asked
    with where.connect() as client:
        for note in which.notes(client.server_time() or time.time()):
            streams.complain(f"note: {note}")
        wanted = which.keywords(clock_of(client))
        with client.stream(job, gaps="yield", **wanted) as output, Watch(where, job) as watch:
            whole = copy(output, watch)
    return Exit.OK if whole else Exit.FAILED


@app.command(usage="Usage: worker-service remove [OPTIONS] JOB...")
def remove(*jobs: JobId, where: Where = _HERE) -> int:
    """Make the server forget jobs that have ended, and their output.

    One that cannot be removed does not keep the others; the exit code is that of the first such one.

    Parameters
    ----------
    jobs:
        The jobs' ids, or unique prefixes of them.
    """
    if not jobs:
        raise UsageError("remove needs a job's id; `worker-service list` shows those there are.")
    code = Exit.OK
    with where.connect() as client:
        for job in jobs:
            try:
                streams.put(f"job with id {client.remove(job).id} removed.\n")
            except RequestError as error:
                streams.complain(str(error))
                code = code or exit_code(error)
    return code


@app.command
def stats(
    job: JobId,
    /,
    *,
    interval: Interval = "1",
    once: Flag = False,
    json: Flag = False,
    where: Where = _HERE,
) -> int:
    """Show what a job uses, live, until it ends. Ctrl-C leaves; the job goes on.

    Columns: time since the start; CPU in percent of one CPU, and in seconds; memory now, and at most;
    tasks; bytes read from disks and written to them, a second and in total; seconds that the CPU limit
    held the job back. Rates are those of the last interval; in the first line, and in the last one, the
    averages since the job's start. A - stands for what the server's host does not count.

    Parameters
    ----------
    job:
        The job's id or a unique prefix of it.
    interval:
        How long from one line to the next, 0.1 to 3600 seconds: 5s, 1m.
    once:
        One line, and no more.
    json:
        One JSON object a line instead.
    """
    pause = flags.interval(interval)
    display = live.Display()
    signal.signal(signal.SIGINT, lambda number, frame: _leave(number, display))
    with where.connect() as client:
        readings = live.readings(client, job, clock_of(client), interval=pause, once=once)
        if json:
            for reading in readings:
                streams.put(render.json_line(live.as_json(reading)))
        else:
            live.show(readings, display)
    return Exit.OK


@app.command(usage=f"Usage: {PATTERN.format('run')}")
def run(*words: Words, what: What = _PLAIN, where: Where = _HERE) -> int:
    """Start a job, show its output, and exit with its exit code.

    The job's command stands behind the flags and a --, and reaches the server word for word; no shell
    looks at it there. Its stdin is /dev/null; what waits on ours is refused. Ctrl-C, SIGTERM and the
    terminal's end stop the job; a second Ctrl-C leaves at once. The job is also stopped when its output has
    nowhere left to go, as in run -- yes | head. Why a job ended that did not exit by itself, and its id,
    stand on stderr.

    Exits with 128 + n for a job that signal n ended, 127 for no such program, 126 for one that may not
    be executed, and 125 for a failure of our own, a connection cut for good included.
    """
    what.check("run", words)
    inlet.check()
    with where.connect() as client:
        # The handler is there before the job is: no Ctrl-C can leave a job behind unsaid.
        stopper = Stopper(where)
        stopper.listen()
        stopper.expect(job_id := client.new_id())
        job = what.start(client, words, merge=streams.are_one(), job_id=job_id)
        stopper.begin(job.id)
        _say_notes(job)
        return attend(client, job, where)


def _print_job(job: JobStatus, *, json: bool) -> None:
    streams.put(
        render.json_line(render.as_json(job)) if json else f"{render.headline(job)}\n{render.details(job)}"
    )


def _say_notes(job: JobStatus) -> None:
    """Say on stderr what the server has to say about a job's start."""
    for note in job.notes:
        streams.complain(f"note: {note}")


def _leave(number: int, display: live.Display | None = None) -> None:
    """End at once for a signal: nothing is to be put in order but the terminal, and the job goes on."""
    try:
        if display is not None:
            display.finish()
    finally:
        os._exit(Exit.SIGNAL + number)
