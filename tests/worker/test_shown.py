"""What is kept of a long command, and that it says so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.shown import SHOWN_BYTES, SHOWN_WORDS, shorten


@pytest.mark.parametrize(
    ("argv", "words", "size", "note"),
    [
        ((b"true",), 1, 4, None),
        ((b"x",) * SHOWN_WORDS, SHOWN_WORDS, SHOWN_WORDS, None),
        ((b"x" * SHOWN_BYTES, b""), 2, SHOWN_BYTES, None),
        ((b"a",) * 65_000, 1024, 1024, "1,024 of 65,000 words, 1,024 of 65,000 bytes."),
        ((b"x" * 20_000,), 1, SHOWN_BYTES, "1 of 1 words, 16,384 of 20,000 bytes."),
        ((b"x" * SHOWN_BYTES, b"y"), 1, SHOWN_BYTES, "1 of 2 words, 16,384 of 16,385 bytes."),
        (("\u20ac".encode() * 10_000,), 1, SHOWN_BYTES - 1, "1 of 1 words, 16,383 of 30,000 bytes."),
        ((b"\x80" * 20_000,), 1, SHOWN_BYTES, "1 of 1 words, 16,384 of 20,000 bytes."),
    ],
)
def test_what_is_kept(argv: tuple[bytes, ...], words: int, size: int, note: str | None) -> None:
    kept, notes = shorten(argv)
    assert (len(kept), sum(map(len, kept))) == (words, size)
    assert notes == ((f"The command is shown in part: {note}",) if note else ())


@given(st.lists(st.binary(max_size=20_000), min_size=1, max_size=10).map(tuple))
def test_what_is_kept_is_the_beginning(argv: tuple[bytes, ...]) -> None:
    kept, notes = shorten(argv)
    assert kept[:-1] == argv[: len(kept) - 1]
    assert argv[len(kept) - 1].startswith(kept[-1])
    assert bool(notes) == (kept != argv)
