"""Owns the situations in which the command line complains of jobs, of their ids, and of its own stdin."""

import os
import signal

from tests.cli.place import Place, Situations
from tests.cli.program import Result, finish, read_until

WAITS = ("sh", "-c", "echo ready; exec sleep 600")
situation = Situations()


def asked(**lines: str) -> None:
    """Situations that are one command line each; JOBS stand for ids."""
    for name, line in lines.items():

        def ask(place: Place, line: str = line) -> Result:
            names = {"ENDED": place.ended, "STOPPED": place.stopped, "RUNNING": place.running}
            return place.ask(*(names.get(word, word) for word in line.split()))

        situation(name.replace("_", " "))(ask)


asked(
    no_such_job="query nope",
    no_such_job_to_wait_for="wait nope",
    no_such_program="run -- no-such-program",
    a_program_that_may_not_be_executed="start -- /etc/passwd",
    no_such_directory="start --cwd /no/such/folder -- true",
    no_such_user="run --user no-such-user -- true",
    an_offset_beyond_the_end="stream --offset 1G ENDED",
    a_job_that_runs_cannot_be_removed="remove RUNNING",
    a_stop_of_a_job_that_had_ended="stop ENDED",
    a_second_stop="stop STOPPED",
    local_time="stream --since 2026-01-01 ENDED",
    a_time_in_the_future="stream --since 2099-01-01T00:00:00Z ENDED",
    a_job_that_a_signal_ended="run -- sh -c kill${IFS}-9${IFS}$$",
    a_job_at_its_timeout="run --timeout 0.05s -- sleep 600",
    little_CPU="start --cpu-limit 16 --cwd /no/such/folder -- true",
)


@situation("an id that several jobs have")
def _(place: Place) -> Result:
    first = ""
    while sum(job.id.startswith(first) for job in place.client.list()) < 2 or not first:
        first = place.client.start(["true"]).id[0]
    found = place.ask("query", first)
    count = found.err.split()[1]  # two, or more by chance
    said = found.err.replace(b" %b jobs" % count, b" 2 jobs").replace(f"'{first}'".encode(), b"'0'")
    return Result(found.code, found.out, said)


@situation("an id that is no text")
def _(place: Place) -> Result:
    flags = ["--server", place.server.address, "--certs", str(place.server.certs)]
    return place.cli.shell('exec "$@" "$(printf "\\377")"', *flags, "query")


@situation("more than the server takes at once")
def _(place: Place) -> Result:
    return place.ask("run", "--", "echo", "x" * 100_000)


@situation("a User starts")
def _(place: Place) -> Result:
    return place.ask("start", "--", "true", identity="user")


@situation("a User stops")
def _(place: Place) -> Result:
    return place.ask("stop", place.running, identity="user")


@situation("the most jobs run")
def _(place: Place) -> Result:
    more = [place.client.start(["sleep", "600"]).id for _ in range(2)]
    refused = place.ask("run", "--", "true")
    for job in more:
        place.client.stop(job, grace=0)
    return refused


@situation("a job that somebody stopped")
def _(place: Place) -> Result:
    with place.begin("run", "--", *WAITS) as running:
        read_until(running, b"ready\n")
        place.client.stop(_newest(place))
        return finish(running)


@situation("a second Ctrl-C")
def _(place: Place) -> Result:
    deaf = "trap 'echo heard' TERM; echo ready; while :; do sleep 600 & wait; done"
    with place.begin("run", "--", "sh", "-c", deaf) as running:
        read_until(running, b"ready\n")
        running.send_signal(signal.SIGINT)
        read_until(running, b"heard\n")
        running.send_signal(signal.SIGINT)
        left = finish(running)
    place.client.stop(_newest(place), grace=0)
    return left


def _newest(place: Place) -> str:
    return list(place.client.list())[-1].id


@situation("stdin that holds something")
def _(place: Place) -> Result:
    with (place.folder / "input").open("w+") as file:
        file.write("x")
        file.seek(0)
        return place.piped(file.fileno(), "run", "--", "cat")


@situation("a pipe on stdin that is empty")
def _(place: Place) -> Result:
    reading, writing = os.pipe()
    try:
        return place.piped(reading, "run", "--", "true")
    finally:
        os.close(reading)
        os.close(writing)


@situation("a full disk below stdout")
def _(place: Place) -> Result:
    return place.cli.shell('exec "$@" >/dev/full', "--help")
