"""Every error of ours can be pickled and copied, with all that it tells (BEHAVIOURS 29)."""

import copy
import importlib
import pickle
import pkgutil
from collections.abc import Callable, Iterator

import pytest

import certs
import client
import wire
import worker
from certs.trusted import NotAcceptedError, Reason
from client import errors
from wire.errors import ErrorCode, RequestError, WireError
from wire.messages import Gap, GapReason
from worker.ceilings import LimitRefusedError
from worker.child import SpawnError
from worker.outbox import StalledError

PACKAGES = (certs, client, wire, worker)
#: How those are made that take something else than one sentence.
MADE: dict[type[BaseException], Callable[[], BaseException]] = {
    RequestError: lambda: RequestError(
        ErrorCode.BUSY, "Later.", 7, field="argv", limit="cpu", retry_after=1.5
    ),
    errors.GapError: lambda: errors.GapError(Gap(1, 12, 100, GapReason.DROPPED)),
    errors.TlsError: lambda: errors.TlsError("It was refused.", cut=True),
    errors.UncertainStartError: lambda: errors.UncertainStartError("It may run.", job_id="a", restarted=True),
    NotAcceptedError: lambda: NotAcceptedError(Reason.EXPIRED, "It has expired."),
    LimitRefusedError: lambda: LimitRefusedError("It cannot be enforced.", "memory"),
    SpawnError: lambda: SpawnError("exec", 2),
    StalledError: StalledError,
}


def classes(base: type[BaseException] = BaseException) -> Iterator[type[BaseException]]:
    """Every exception class below another one that a module of ours defines."""
    for found in base.__subclasses__():
        if found.__module__.partition(".")[0] in {package.__name__ for package in PACKAGES}:
            yield found
        yield from classes(found)


for package in PACKAGES:
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
OURS = sorted(set(classes()), key=lambda found: (found.__module__, found.__qualname__))


def test_they_are_found() -> None:
    """One of each package, and of the command line."""
    assert {found.__module__ for found in OURS} >= {
        "certs.errors", "client.errors", "client.cli.exits", "wire.errors", "worker.child"
    }  # fmt: skip


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: f"{kind.__module__}.{kind.__qualname__}")
def test_it_survives(kind: type[BaseException]) -> None:
    error = MADE.get(kind, lambda: kind("What happened, and what to do."))()
    error.add_note("A note of its catcher's.")
    ways = [lambda it, n=n: pickle.loads(pickle.dumps(it, n)) for n in range(pickle.HIGHEST_PROTOCOL + 1)]  # noqa: S301
    for way in (*ways, copy.copy, copy.deepcopy):
        again = way(error)
        assert type(again) is kind
        assert (str(again), repr(again), again.args) == (str(error), repr(error), error.args)
        assert vars(again) == vars(error)


def test_one_base_for_all_that_clients_raise() -> None:
    """All that client.errors names has it, but for the set of codes."""
    named = [getattr(errors, name) for name in errors.__all__ if name != "ErrorCode"]
    assert all(issubclass(found, errors.WorkerServiceError) for found in named)
    assert set(named) | {WireError} >= set(classes(errors.WorkerServiceError))
