"""Owns the samples of a server, one a second: memory, descriptors, threads, cgroups, CPU, a client's wait."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from tests.harness import Server
from tests.host.common import bases
from tests.proc import memory_of, processor_seconds
from tests.soak.model import Model

MIB = 2**20
#: Seconds between two samples.
PERIOD = 1.0


@dataclass(frozen=True)
class Sample:
    """What was measured at one moment.

    Args:
        seconds: since the soak began.
        phase: its number.
        memory: MiB resident of the server.
        descriptors: of the server.
        threads: of the server.
        cgroups: of its jobs, in every hierarchy.
        jobs: that the model knows and that are not removed.
        cpu: share of a processor that the server used since the sample before.
        wait: ms, the longest `query` of a client of its own since then; None if none came back.
    """

    seconds: float
    phase: int
    memory: float
    descriptors: int
    threads: int
    cgroups: int
    jobs: int
    cpu: float
    wait: float | None


def counts(pid: int) -> tuple[int, int]:
    """How many descriptors and threads a process has."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir())), len(list(Path(f"/proc/{pid}/task").iterdir()))


class Sampler:
    """Takes samples of one server, in a thread of its own, until it is closed.

    Args:
        server: the server.
        phase: its number.
        began: when the soak began, by time.monotonic().
        model: whose jobs are counted.
    """

    def __init__(self, server: Server, phase: int, began: float, model: Model) -> None:
        self.samples: list[Sample] = []
        self._server = server
        self._phase = phase
        self._began = began
        self._model = model
        self._bases = bases(server)
        self._waits: list[float] = []
        self._over = threading.Event()
        self._probe = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.probe", server.address, str(server.certs)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._run, self._listen)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Take no more."""
        self._over.set()
        self._probe.kill()
        with self._probe:
            for thread in self._threads:
                thread.join(10)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Let the client of its own ask nothing for as long as the block."""
        self._probe.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._probe.send_signal(signal.SIGCONT)

    def _listen(self) -> None:
        assert self._probe.stdout is not None
        for line in self._probe.stdout:
            self._waits.append(float(line))

    def _run(self) -> None:
        pid = self._server.process.pid
        with suppress(OSError, ValueError):  # the server has ended
            then, used = time.monotonic(), processor_seconds(pid)
            while not self._over.wait(PERIOD):
                now, uses = time.monotonic(), processor_seconds(pid)
                waits, self._waits = self._waits, []
                descriptors, threads = counts(pid)
                self.samples.append(
                    Sample(
                        seconds=round(now - self._began, 2),
                        phase=self._phase,
                        memory=round(memory_of(pid) / MIB, 1),
                        descriptors=descriptors,
                        threads=threads,
                        cgroups=sum(path.is_dir() for base in self._bases for path in base.iterdir()),
                        jobs=len(self._model.there),
                        cpu=round((uses - used) / (now - then), 3),
                        wait=max(waits, default=None),
                    )
                )
                then, used = now, uses


@contextmanager
def sampling(server: Server, phase: int, began: float, model: Model) -> Iterator[Sampler]:
    """Take samples for as long as the block."""
    sampler = Sampler(server, phase, began, model)
    try:
        yield sampler
    finally:
        sampler.close()


def write(samples: list[Sample], path: Path) -> None:
    """Add samples to a file of comma-separated values."""
    new = not path.exists()
    with path.open("a") as file:
        if new:
            file.write(",".join(field.name for field in fields(Sample)) + "\n")
        for sample in samples:
            file.write(
                ",".join("" if value is None else str(value) for value in asdict(sample).values()) + "\n"
            )
