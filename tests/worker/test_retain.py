"""The text of `--retain`: a number of jobs, a time, or both."""

import pytest

from wire.limits import LimitError
from worker.retain import Retention, parse_retention


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, Retention()),
        ("0", Retention(0)),
        ("1000", Retention(1000)),
        ("90s", Retention(seconds=90)),
        ("5m", Retention(seconds=300)),
        ("24h", Retention(seconds=86400)),
        ("2d", Retention(seconds=172800)),
        ("1000,24h", Retention(1000, 86400)),
        ("24h, 1000", Retention(1000, 86400)),
    ],
)
def test_what_is_kept(text: str | None, found: Retention) -> None:
    assert parse_retention(text) == found


@pytest.mark.parametrize("text", ["", "-1", "1.5", "10,20", "1h,2h", "5w", "h", "1000;24h", "\u0663"])
def test_what_makes_no_sense(text: str) -> None:
    with pytest.raises(LimitError, match="--retain"):
        parse_retention(text)
