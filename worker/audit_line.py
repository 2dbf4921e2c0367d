"""Owns the form of an audit line: JSON, printable ASCII alone, never longer than a pipe takes whole.

JSON escapes whatever is not printable ASCII, so nothing that a client or a certificate says can end a line,
forge another or move a terminal's cursor. What is long is shortened and marked so, and no value of an
environment variable is ever written.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from .audit_file import LINE_BYTES

#: The most that each of these takes in a line, in bytes, escapes included.
TEXT_BYTES, SENTENCE_BYTES, ARGV_BYTES, ENV_BYTES = 256, 512, 1024, 384
#: The longest escape of one character: two surrogates, as in "\ud83d\ude00".
_WIDEST = 12
_CUT = "…"
_SENTENCES = frozenset({"cause", "detail"})
_encode = json.JSONEncoder(separators=(",", ":")).encode
#: What stays of a line that is too long all the same.
_ESSENCE: Final = ("time", "seq", "event", "outcome", "connection", "request", "job")


def encode(fields: Mapping[str, object]) -> bytes:
    """One line, with what has no value left out and each text shortened."""
    kept = {name: _value(name, value) for name, value in fields.items() if value is not None}
    line = _encode(kept)
    if len(line) >= LINE_BYTES:
        line = _encode({name: kept[name] for name in _ESSENCE if name in kept} | {"shortened": True})
    return line.encode("ascii") + b"\n"


def asked(params: Mapping[str, object]) -> dict[str, object]:
    """What of a request's parameters is written, valid or not: nothing is taken for granted."""
    fields: dict[str, object] = {}
    if isinstance(id_ := params.get("id"), str):
        fields["job"] = id_
    argv = params.get("argv")
    if isinstance(argv, Sequence) and not isinstance(argv, str | bytes):
        fields["argv"], whole = _shorten(argv, ARGV_BYTES)
        if not whole:
            fields["argv_words"] = len(argv)
            fields["argv_bytes"] = sum(len(word) for word in argv if isinstance(word, str | bytes))
    if isinstance(env := params.get("env"), Mapping):
        # A name holds no "="; what a client puts behind one may be a value.
        names = (_text(name, ENV_BYTES).partition("=")[0] for name in env)
        fields["env"], whole = _shorten(names, ENV_BYTES)
        if not whole:
            fields["env_names"] = len(env)
    if isinstance(user := params.get("user"), str | bytes):
        fields["user"] = _text(user, TEXT_BYTES + 1)
    if isinstance(cwd := params.get("cwd"), str | bytes):
        fields["cwd"] = _text(cwd, TEXT_BYTES + 1)
    return fields


def _value(name: str, value: object) -> object:
    if isinstance(value, str):
        return _short(value, SENTENCE_BYTES if name in _SENTENCES else TEXT_BYTES)
    return value


def _short(text: str, most: int) -> str:
    """The text, or as much of it as JSON holds in so many bytes, and a mark."""
    if len(text) * _WIDEST < most or (len(text) <= most and len(_encode(text)) <= most):
        return text
    kept = text[:most]
    while (size := len(_encode(kept + _CUT))) > most:
        kept = kept[: min(len(kept) - 1, len(kept) * most // size)]
    return kept + _CUT


def _shorten(words: Iterable[object], most: int) -> tuple[list[str], bool]:
    """The first words, as many as JSON holds in so many bytes, and whether that is all of them."""
    kept: list[str] = []
    for word in words:
        text = _text(word, most + 1)
        size = len(_encode(text)) + 1
        if size > most:
            if most > 2 * _WIDEST:
                kept.append(_short(text, most - 1))
            return kept, False
        kept.append(text)
        most -= size
    return kept, True


def _text(word: object, most: int) -> str:
    """The first so many bytes or characters of a word as text: none takes less than that in JSON.

    Bytes that are no UTF-8 become surrogates U+DC80 to U+DCFF, as in `query --json`.
    """
    if isinstance(word, bytes):
        return word[:most].decode("utf-8", "surrogateescape")
    return word[:most] if isinstance(word, str) else f"<{type(word).__name__}>"
