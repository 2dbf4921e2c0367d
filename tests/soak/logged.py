"""Owns what a server's log may say in a soak: which errors are our doing, and how often it warned."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from tests.soak.follow import expect

#: Errors that the soak provokes: it kills spawners, writes bad certificates, and fills the room for output.
PROVOKED = frozenset(
    {
        "the spawner died; its jobs are lost and a new one starts",
        "certificates were not reloaded; the old ones stay",
        "the room for output on the disk is used up",
    }
)
#: Warnings that nothing here provokes.
UNPROVOKED = frozenset({"a client broke the protocol", "a library had something to say"})


def longest_round(lines: Iterable[dict[str, Any]]) -> float | None:
    """The most processor time of a round of the event loop, in ms; None if the server was killed."""
    found = [line["longest_round_cpu_ms"] for line in lines if "longest_round_cpu_ms" in line]
    return float(found[-1]) if found else None


def check(lines: Iterable[dict[str, Any]]) -> Counter[str]:
    """Check a log; return how often each warning and error came.

    Raises:
        DefectError: there is one that nothing here provokes.
    """
    told: Counter[str] = Counter()
    for line in lines:
        level, message = line.get("level"), str(line.get("message"))
        if level in ("warning", "error"):
            told[message] += 1
            expect(level == "warning" or message in PROVOKED, f"the server's log has an error: {line}")
            expect(message not in UNPROVOKED, f"the server's log has a warning: {line}")
    return told
