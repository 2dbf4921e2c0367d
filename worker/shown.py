"""Owns how much of a job's command is kept once its program runs, and told, to everybody alike.

A command may have 3 MiB and 65,000 words. Each `query` and each page of `list` would cost as much again, for
as long as the job is kept; so only the beginning of a long one is, and a note says how much that is.
"""

from typing import Final

#: The most bytes and the most words that are kept of a command.
SHOWN_BYTES: Final = 16 * 1024
SHOWN_WORDS: Final = 1024


def shorten(argv: tuple[bytes, ...]) -> tuple[tuple[bytes, ...], tuple[str, ...]]:
    """What is kept of a command, and the note that says so if that is not all of it."""
    left, kept = SHOWN_BYTES, list[bytes]()
    for word in argv[:SHOWN_WORDS]:
        if len(word) > left:
            kept += [_beginning(word, left)] * bool(left)
            break
        kept.append(word)
        left -= len(word)
    size, whole = sum(map(len, kept)), sum(map(len, argv))
    if len(kept) == len(argv) and size == whole:
        return argv, ()
    note = f"The command is shown in part: {len(kept):,} of {len(argv):,} words, {size:,} of {whole:,} bytes."
    return tuple(kept), (note,)


def _beginning(word: bytes, most: int) -> bytes:
    """Up to ``most`` bytes of a word, and no half of a UTF-8 character, which is 4 bytes at most."""
    for end in range(most, max(most - 4, 0), -1):
        if word[end] & 0xC0 != 0x80:
            return word[:end]
    return word[:most]
