"""The synchronous cores keep to their models; `just race` runs the same machines for longer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from tests.race.cores import ELSEWHERE, MACHINES
from wire.jobs import Cause, CauseKind, Status
from worker.state import Exit, cause_of

SHORT = settings(max_examples=30, stateful_step_count=40, deadline=None)
CODES = st.integers(0, 255)
SIGNALS = st.integers(1, 31)
ENDS = st.one_of(st.builds(Exit, code=CODES), st.builds(Exit, signal=SIGNALS), st.builds(Exit.by_loss))
STOPS = st.none() | st.builds(Cause, st.sampled_from([CauseKind.STOPPED, CauseKind.TIMEOUT]))


@pytest.mark.parametrize("name", [name for name in MACHINES if name not in ELSEWHERE])
def test_machine(name: str) -> None:
    run_state_machine_as_test(MACHINES[name], settings=SHORT)


@given(end=ENDS, stopped=STOPS, memory=st.none() | st.just("it ran out"))
def test_one_cause_for_every_end(end: Exit, stopped: Cause | None, memory: str | None) -> None:
    cause = cause_of(end, stopped=stopped, out_of_memory=memory)
    assert (cause.kind is CauseKind.LOST) == end.lost
    if not end.lost:
        assert (cause == stopped) == (stopped is not None)  # a stop's SIGKILL is never called oom
    if cause.kind is CauseKind.OOM:
        assert memory is not None
        assert (end.code, stopped) != (0, None)
    if cause.kind is CauseKind.EXITED:
        assert end.status is Status.EXITED
    if cause.kind is CauseKind.SIGNALED:
        assert end.status is Status.SIGNALED
