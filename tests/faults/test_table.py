"""The table of faults in ARCHITECTURE.md names tests that there are, and every test of this folder."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMED = re.findall(
    r"`(tests/[\w/]+\.py)::(test_\w+)` \|$", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE
)


def named_in(path: Path) -> set[str]:
    return set(re.findall(r"^(?:async )?def (test_\w+)\(", path.read_text(), re.MULTILINE))


def test_every_fault_has_its_test() -> None:
    assert len(NAMED) > 20
    assert [(path, name) for path, name in NAMED if name not in named_in(ROOT / path)] == []


def test_every_test_has_its_line() -> None:
    own = {
        name
        for path in Path(__file__).parent.glob("test_*.py")
        if path != Path(__file__)
        for name in named_in(path)
    }
    assert own - {name for _, name in NAMED} == set()
