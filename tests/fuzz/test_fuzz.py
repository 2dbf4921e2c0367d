"""A little of `just fuzz` in each run of the tests; what it once found; and that it finds at all."""

from pathlib import Path

import pytest

from tests.fuzz import runner
from tests.fuzz.runner import FOUND, FoundError, fuzz, keep, replay
from tests.fuzz.targets import TARGETS, Target


@pytest.mark.parametrize("name", TARGETS)
def test_a_short_run_of_each_target(name: str) -> None:
    assert fuzz(name, seed=5, most=150) >= 100


@pytest.mark.parametrize("path", sorted(FOUND.glob("*-*")), ids=lambda path: path.name)
def test_what_failed_once(path: Path) -> None:
    replay(path)


def test_a_failing_input_is_made_small_kept_and_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(data: bytes) -> None:
        assert data.count(b"G") < 2

    monkeypatch.setitem(TARGETS, "planted", Target(TARGETS["websocket"].inputs, check))
    monkeypatch.setattr(runner, "FOUND", tmp_path / "found")
    with pytest.raises(FoundError) as found:
        fuzz("planted", seed=5, most=300)
    path = keep("planted", found.value.data)
    with pytest.raises(AssertionError):
        replay(path)
    assert path.read_bytes().count(b"G") >= 2
