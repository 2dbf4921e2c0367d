"""What waits for no job may not take as long as what does."""

import time
from pathlib import Path

import pytest

from tests.soak.watch import PROMPT, Watch


@pytest.mark.parametrize(("prompt", "seconds"), [(True, PROMPT), (False, 60.0)])
def test_each_has_its_patience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, *, prompt: bool
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    looked = Watch(60.0, tmp_path / "log")
    with looked.doing("one", "query x", prompt=prompt):
        now += seconds - 0.1
        assert looked.late() is None
        now += 0.2
        assert looked.late() == f"1 operations have not got on for {seconds:g} s: one: query x"
    looked.close()
