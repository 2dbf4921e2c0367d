"""Bounds: what an operator may set, what fits the process, and the table in README."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from wire.limits import LimitError
from worker.bounds import DEFAULTS, Bounds
from worker.ids import Ids


def test_defaults_make_sense() -> None:
    DEFAULTS.check()


@pytest.mark.parametrize(
    ("bounds", "flag"),
    [
        (Bounds(max_connections=0), "--max-connections 0"),
        (Bounds(max_handshakes=-1), "--max-handshakes -1"),
        (Bounds(handshake_timeout=float("nan")), "--handshake-timeout nan"),
        (Bounds(max_jobs=0), "--max-jobs 0"),
        (Bounds(max_frame=1000), "--max-frame 1000"),
        (Bounds(max_frame=2**23), "--max-frame"),
        (Bounds(max_argument_bytes=0), "--max-argument-bytes 0"),
    ],
)
def test_what_makes_no_sense_is_told_with_its_flag(bounds: Bounds, flag: str) -> None:
    with pytest.raises(LimitError, match=flag):
        bounds.check()


def test_readme_has_every_bound_with_its_default() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    rows = dict(re.findall(r"^\| `--([a-z-]+)[^`]*` \|[^|]*\| `([^`]*)` \|", readme, re.MULTILINE))
    for field in fields(Bounds):
        told = rows[field.name.replace("_", "-")]
        default = getattr(DEFAULTS, field.name)
        assert told in (f"{default:g}", str(default), f"{default // 2**20}M"), field.name


def test_prefixes_find_what_a_scan_would() -> None:
    names = ["abc", "ab", "abd", "b", "ba", "ab-1"]
    ids = Ids()
    for name in names:
        ids.add(name)
    for prefix in ["a", "ab", "abc", "abcd", "b", "c", "ab-", "-"]:
        found = [ids[place] for place in ids.beginning_with(prefix)]
        assert found == sorted(name for name in names if name.startswith(prefix))
    ids.discard("ab")
    ids.discard("never there")
    assert [ids[place] for place in ids.beginning_with("ab")] == ["ab-1", "abc", "abd"]
