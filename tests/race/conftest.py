"""Owns what a test run says of its races at its end: how many, and that slow machines do fewer."""

import pytest

from tests.harness import SLOW

CANCELLED = pytest.StashKey[list[int]]()


@pytest.fixture
def cancelled(pytestconfig: pytest.Config) -> list[int]:
    """Takes the number of checkpoints at which each operation was cancelled."""
    return pytestconfig.stash.setdefault(CANCELLED, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Called by pytest."""
    if counts := config.stash.get(CANCELLED, []):
        line = f"tests/race: {sum(counts)} checkpoints cancelled in {len(counts)} sweeps"
        if SLOW > 1:
            line += f"; FEWER than elsewhere: with SLOW_MACHINE={SLOW}, only what cgroups matter to"
        terminalreporter.write_line(line)
