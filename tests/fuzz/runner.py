"""Owns rounds of fuzzing: one target, one seed, so many inputs; and files of inputs that failed."""

import hashlib
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import seed as seeded

from tests.fuzz.targets import TARGETS

#: Inputs that failed once, and must not again: the suite tries each. A name begins with its target.
FOUND = Path(__file__).parent / "found"


class FoundError(Exception):
    """A check failed.

    Args:
        data: the smallest input for which it does, as far as Hypothesis could tell.
        count: inputs that were tried.
    """

    def __init__(self, data: bytes, count: int) -> None:
        super().__init__(f"an input of {len(data)} bytes fails: {data[:80]!r}")
        self.data = data
        self.count = count


def fuzz(name: str, seed: int, most: int) -> int:
    """Try at most so many inputs of a target; return how many it were.

    Raises:
        FoundError: a check failed; why is its cause.
    """
    target = TARGETS[name]
    count = 0
    failed = b""

    def check(data: bytes) -> None:
        nonlocal count, failed
        count += 1
        try:
            target.check(data)
        except BaseException:
            failed = data  # Hypothesis tries the smallest that it knows last
            raise

    profile = settings(
        max_examples=most,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    try:
        seeded(seed)(profile(given(target.inputs)(check)))()
    except Exception as error:
        raise FoundError(failed, count) from error
    return count


def keep(name: str, data: bytes) -> Path:
    """Write an input that failed to a file, and return its path."""
    FOUND.mkdir(exist_ok=True)
    path = FOUND / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    return path


def replay(path: Path) -> None:
    """Try the input in a file once more; raises what the check does."""
    TARGETS[path.name.partition("-")[0]].check(path.read_bytes())
