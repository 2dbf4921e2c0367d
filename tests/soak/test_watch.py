"""What waits for no job may not take as long as what does."""

import time
from pathlib import Path

import pytest

from tests.soak.watch import PROMPT, Watch


@pytest.mark.parametrize(
    ("what", "seconds"),
    [
        ("query x (exit)", PROMPT),
        ("stream x (exit) follow=False offset=0", PROMPT),
        ("stream x (exit) follow=True offset=0", 60.0),
        ("wait x (exit)", 60.0),
    ],
)
def test_each_has_its_patience(
    what: str, seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    looked = Watch(60.0, tmp_path / "log")
    with looked.doing("one", what):
        now += seconds - 0.1
        assert looked.late() is None
        now += 0.2
        assert looked.late() == f"1 operations have not got on for {seconds:g} s: one: {what}"
    looked.close()
