"""A length of time, as people write it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.durations import parse_seconds
from wire.limits import LimitError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("0", 0),
        ("0.5", 0.5),
        (".5", 0.5),
        ("90s", 90),
        ("5m", 300),
        ("2H", 7200),
        ("1.5d", 129600),
    ],
)
def test_lengths(text: str, seconds: float) -> None:
    assert parse_seconds("--grace", text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1", "-5m", "nan", "inf", "5x", "5 m", "m", "٣", "1" * 400])
def test_what_is_none(text: str) -> None:
    with pytest.raises(LimitError) as caught:
        parse_seconds("--grace", text)
    assert str(caught.value) == (
        f"--grace {text!r} is no length of time: write 90s, 5m or 2h, or a number of seconds."
    )


@pytest.mark.parametrize("text", ["0", "0s", "0.0h"])
def test_no_time_at_all(text: str) -> None:
    with pytest.raises(LimitError, match=r"^--timeout must be more than zero; leave it out for no limit\.$"):
        parse_seconds("--timeout", text, zero=False)


@given(st.text("0123456789.smhd-e") | st.text(max_size=8))
def test_anything_is_read_or_refused(text: str) -> None:
    try:
        seconds = parse_seconds("--x", text)
    except LimitError:
        return
    assert 0 <= seconds < float("inf")
