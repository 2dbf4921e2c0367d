"""Owns the command line's part in the soak: now and then a process, judged by its output and exit code."""

import json
import random
import re
import subprocess
import sys

import trio

from tests.harness import Server
from tests.soak.follow import expect
from tests.soak.model import Known
from tests.soak.plans import Plan, chatty, short
from tests.soak.talk import STDERR, STDOUT, Spec
from tests.soak.world import World
from wire.jobs import CauseKind, JobStatus, Status

#: Exit codes of the command line for what a server at its end may do to any command: README, "Exit codes".
ENDING = (3, 5, 6, 7, 125)
NOT_FOUND, DENIED, NOT_OURS, SIGNALED = 3, 4, 125, 128
#: What `run` says behind a job's own stderr where the job did not exit by itself.
_SAID = re.compile(rb"worker-service: job [0-9a-f-]{36} [^\n]*\n\Z")


class Commander:
    """Runs commands one by one.

    Args:
        server: the server.
        chance: random numbers.
        world: what is shared with the other clients.
    """

    def __init__(self, server: Server, chance: random.Random, world: World) -> None:
        self._environment = {name: server.environment(name) for name in ("admin", "user")}
        self._chance = chance
        self._world = world
        self._model = world.model

    async def run(self) -> None:
        """Run commands until the world is over."""
        steps = (
            self.query,
            self.stream,
            self.wait,
            self.list,
            self.start,
            self.start,
            self.denied,
            self.stop,
        )
        await trio.lowlevel.checkpoint()
        while not self._world.over:
            await self._chance.choice(steps)()
            await trio.sleep(self._chance.uniform(0.1, 1))

    async def _call(self, *words: str, identity: str = "admin") -> subprocess.CompletedProcess[bytes] | None:
        """Run a command; None if the server has ended meanwhile, as somebody told it."""
        command = [sys.executable, "-m", "client.cli", *words]
        with self._world.watch.doing("command", " ".join(words)[:200]):
            done = await trio.run_process(
                command,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env=self._environment[identity],
            )
        return None if self._model.ending and done.returncode in ENDING else done

    def _pick(self, *, ended: bool) -> Known | None:
        there = [known for known in self._model.known() if not ended or known.final is not None]
        return self._chance.choice(there) if there else None

    def _gone(self, known: Known, code: int, said: int = NOT_FOUND) -> bool:
        """Whether a job was removed before a command came to it, which then exits so."""
        return known.remove_asked and code == said

    async def query(self) -> None:
        """What JSON says of a job."""
        await trio.lowlevel.checkpoint()
        if (known := self._pick(ended=False)) is None:
            return
        final = known.final
        done = await self._call("query", "--json", known.id)
        if done is None or self._gone(known, done.returncode):
            return
        expect(done.returncode == 0, f"query {known}: {done}")
        self._compare(known, final, json.loads(done.stdout))

    def _compare(self, known: Known, final: JobStatus | None, told: dict[str, object]) -> None:
        expect(told["id"] == known.id, f"JSON of another job than {known}: {told}")
        if final is not None and final.cause is not None:
            right = {
                "status": final.status,
                "exit_code": final.exit_code,
                "signal": final.signal,
                "output_bytes": final.output,
                "owner": final.owner,
            }
            expect(right.items() <= told.items(), f"JSON differs from {final}: {told}")

    async def stream(self) -> None:
        """Every byte of a job, on the stream that it was printed to."""
        await trio.lowlevel.checkpoint()
        if (known := self._pick(ended=True)) is None or self._model.drops:
            return
        final = known.final
        done = await self._call("stream", known.id)
        if done is None or self._gone(known, done.returncode):
            return
        assert final is not None
        expect(done.returncode == 0, f"stream {known}: {done.returncode} {done.stderr[-200:]!r}")
        expect(len(done.stdout) + len(done.stderr) == final.output, f"not all bytes of {final}")
        self._check_bytes(known.plan.spec, done)

    def _check_bytes(self, spec: Spec, done: subprocess.CompletedProcess[bytes]) -> None:
        for stream, data in ((STDOUT, done.stdout), (STDERR, done.stderr)):
            right = spec.content(stream, 0, len(data))
            expect(len(data) <= spec.size(stream), f"{len(data)} bytes of stream {stream} of {spec}")
            expect(data == right, f"other bytes than stream {stream} of {spec}")

    async def wait(self) -> None:
        """The exit code of an ended job."""
        await trio.lowlevel.checkpoint()
        if (known := self._pick(ended=True)) is None or (final := known.final) is None:
            return
        done = await self._call("wait", "--json", known.id)
        if done is None or self._gone(known, done.returncode, NOT_OURS):
            return
        expect(done.returncode == code_of(final), f"wait has {done.returncode}: {final}")
        self._compare(known, final, json.loads(done.stdout))

    async def list(self) -> None:
        """Every job, once."""
        await trio.lowlevel.checkpoint()
        before = set(self._model.there)
        done = await self._call("list", "--json")
        if done is None:
            return
        expect(done.returncode == 0, f"list: {done}")
        ids = [json.loads(line)["id"] for line in done.stdout.splitlines()]
        expect(len(set(ids)) == len(ids), f"a job is listed twice: {ids}")
        if self._model.ending:  # a successor may have answered, which knows nothing
            return
        missing = [id_ for id_ in before - set(ids) if not self._model.jobs[id_].remove_asked]
        expect(not missing, f"jobs are missing from the list: {missing}")

    async def start(self) -> None:
        """Run a job to its end, or start one; a list takes it into the model."""
        await trio.lowlevel.checkpoint()
        plan = short(self._chance) if self._chance.random() < 0.5 else chatty(self._chance, 300_000)
        token = self._model.token(plan, "admin")
        merge = ["--merge"] if plan.spec.merged else []
        if self._chance.random() < 0.4:
            done = await self._call("start", *merge, "--", *plan.argv, token)
            if done is not None and not self._lost(done):
                expect(done.returncode == 0, f"start: {done}")
            return
        done = await self._call("run", *merge, "--", *plan.argv, token)
        if done is None or self._lost(done):
            return
        known = next((known for known in self._model.jobs.values() if known.token == token), None)
        if self._model.drops or self._model.spawner_kills or self._model.ending:
            return
        if known is not None and (known.stoppers or known.remove_asked):
            return
        done.stderr, said = _SAID.subn(b"", done.stderr)
        if said and len(done.stdout) + len(done.stderr) == plan.total + 1:
            done.stderr = done.stderr.removesuffix(b"\n")  # so that it begins on a line of its own
        self._check_bytes(plan.spec, done)
        expect(len(done.stdout) + len(done.stderr) == plan.total, f"not all bytes of {plan}")
        expect(done.returncode == _code(plan), f"run has {done.returncode}: {plan}")

    def _lost(self, done: subprocess.CompletedProcess[bytes]) -> bool:
        """Whether a start failed because the spawner was killed."""
        return bool(self._model.spawner_kills) and b"spawner" in done.stderr

    async def denied(self) -> None:
        """A user may start nothing."""
        await trio.lowlevel.checkpoint()
        done = await self._call("start", "--", "true", identity="user")
        self._model.denied += 1
        expect(done is None or done.returncode == DENIED, f"a user's start: {done}")

    async def stop(self) -> None:
        """Stop a job, whether it has ended or not."""
        await trio.lowlevel.checkpoint()
        if (known := self._pick(ended=False)) is None:
            return
        known.stoppers.add("admin")
        done = await self._call("stop", "--grace", "0.2", known.id)
        if done is None or self._gone(known, done.returncode):
            return
        right = f"Success! job with id {known.id} stopped.\n".encode()
        expect(done.returncode == 0 and done.stdout == right, f"stop {known}: {done}")
        known.stopped = True


def code_of(job: JobStatus) -> int:
    """The exit code that a job's end gives `run` and `wait`."""
    if job.status is Status.EXITED:
        assert job.exit_code is not None
        return job.exit_code
    assert job.signal is not None
    return SIGNALED + job.signal


def _code(plan: Plan) -> int:
    end = plan.end
    assert end is not None
    if end.kind is CauseKind.EXITED:
        return end.code or 0
    return SIGNALED + (end.signal or 0)
