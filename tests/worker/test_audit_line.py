"""Audit lines are one line each, harmless, small enough for a pipe, and hold no secret of the environment."""

import json
import select
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker import audit_line
from worker.audit_line import asked, encode

words = st.one_of(st.text(), st.binary())
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), words),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(words, inner)),
    max_leaves=20,
)


def line(**fields: object) -> dict[str, Any]:
    """What a reader of the line gets, after a look at its form."""
    encoded = encode(fields)
    assert len(encoded) <= select.PIPE_BUF
    assert encoded.endswith(b"\n")
    assert encoded[:-1].isascii()
    assert encoded[:-1].decode().isprintable()
    found: dict[str, Any] = json.loads(encoded)
    return found


@given(
    st.dictionaries(
        st.sampled_from(["identity", "peer", "job", "method", "cause", "detail", "by", "code"]), st.text()
    ),
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("argv", "env", "user", "cwd", "id", "other"), anything)
    ),
)
def test_whatever_is_asked_becomes_one_harmless_line(
    fields: dict[str, str], params: dict[str, object]
) -> None:
    found = line(event="request", **(fields | asked(params)))
    assert found["event"] == "request"


def test_what_is_meant_to_end_a_line_does_not() -> None:
    forged = '"}\n{"event":"job_started","identity":"root"}\r\x1b[2J\x7f\u2028\u202e'
    params = {"argv": [forged.encode(), forged], "user": forged, "cwd": forged.encode()}
    found = line(identity=forged, **asked(params))
    assert found == {"identity": forged, "argv": [forged, forged], "user": forged, "cwd": forged}


def test_the_longest_line_of_the_longest_texts_is_still_whole() -> None:
    wide = "\U0001f512" * 5000
    params = {"argv": [wide], "env": {wide: wide}, "cwd": wide, "id": wide}
    names = ("peer", "identity", "serial", "role", "method", "code", "cause", "by", "detail")
    found = line(seq=1, event="request", **(dict.fromkeys(names, wide) | asked(params)))
    assert (found["seq"], found["event"]) == (1, "request")
    assert found["job"].endswith("…")


def test_a_long_argv_is_shortened_and_its_true_length_told() -> None:
    argv = [b"sh", b"-c", b"x" * 3_000_000, b"end"]
    found = asked({"argv": argv})
    assert found["argv_words"] == 4
    assert found["argv_bytes"] == 3_000_007
    kept = found["argv"]
    assert isinstance(kept, list)
    assert kept[:2] == ["sh", "-c"]
    assert kept[2] == "x" * (len(kept[2]) - 1) + "…"
    assert 900 < len(kept[2]) < 1024


def test_many_words_are_shortened_too() -> None:
    found = asked({"argv": [b"word"] * 60_000})
    assert found["argv_words"] == 60_000
    assert found["argv_bytes"] == 240_000
    assert len(line(**found)["argv"]) > 100


@given(st.lists(words, max_size=20))
def test_an_argv_that_fits_is_all_there(argv: list[str | bytes]) -> None:
    found = asked({"argv": argv})
    whole = [word.decode("utf-8", "surrogateescape") if isinstance(word, bytes) else word for word in argv]
    if "argv_words" in found:
        assert len(json.dumps(whole)) > audit_line.ARGV_BYTES - 2 * 12
    else:
        assert found["argv"] == whole


def test_values_of_the_environment_are_never_written() -> None:
    env = {b"TOKEN": b"hunter2", "PASSWORD=hunter2": b"hunter2", b"L": b"hunter2" * 1000}
    found = asked({"env": env})
    assert found["env"] == ["TOKEN", "PASSWORD", "L"]
    assert b"hunter2" not in encode(found)
    many = asked({"env": {f"NAME_{number}": b"hunter2" for number in range(1000)}})
    assert many["env_names"] == 1000
    assert b"hunter2" not in encode(many)


@pytest.mark.parametrize("params", [{"argv": "ls"}, {"argv": 5}, {"env": []}, {"cwd": 5}, {"id": 5}, {}])
def test_parameters_that_make_no_sense_are_left_out(params: dict[str, object]) -> None:
    assert asked(params) == {}


def test_a_word_that_is_none_is_told_as_what_it_is() -> None:
    assert asked({"argv": [b"ls", 5, None]})["argv"] == ["ls", "<int>", "<NoneType>"]
