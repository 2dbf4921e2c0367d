"""What is offered for a word that is no command and no flag: the nearest one, and nothing that does harm."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.cli import nearest
from client.cli.commands import app
from client.cli.words import ALONE, VALUED

NAMES = [name for name in app if not name.startswith("-")]
CERTS = [name for name in app["certs"] if not name.startswith("-")]
WORDS = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=9)


def offered(word: str) -> str | None:
    return nearest.command(word, NAMES, nearest.COMMANDS)


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("strat", "start"),
        ("sart", "start"),
        ("stat", "stats"),
        ("qeury", "query"),
        ("wiat", "wait"),
        ("lst", "list"),
        ("rn", "run"),
        ("certss", "certs"),
        ("jurnalctl", "stream"),
        ("statu", "query"),
        ("xyzzy", None),
        ("a", None),
        ("images", None),
        ("restart", None),
        ("certs-init", None),
    ],
)
def test_the_nearest_command(word: str, found: str | None) -> None:
    assert offered(word) == found


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("ps ls", "list"),
        ("logs attach journalctl", "stream"),
        ("exec", "run"),
        ("kill", "stop"),
        ("rm delete", "remove"),
        ("status inspect describe show get", "query"),
        ("top", "stats"),
        ("init", "certs init"),
        ("help", "--help"),
    ],
)
def test_familiar_words(words: str, found: str) -> None:
    for word in words.split():
        assert offered(word) == found


def test_familiar_words_lead_to_what_is_there() -> None:
    places = {*NAMES, *(f"certs {name}" for name in CERTS), "--help", "--version", ""}
    assert set(nearest.COMMANDS.values()) <= places
    assert not set(nearest.COMMANDS) & set(NAMES)
    assert set(nearest.CERTS.values()) <= set(CERTS)
    assert not set(nearest.CERTS) & set(CERTS)
    flags = VALUED | ALONE
    for name in (*NAMES, *CERTS):
        command = app["certs"][name] if name in CERTS else app[name]
        if name not in ("certs", "doctor"):
            flags |= {flag for it in command.assemble_argument_collection() for flag in it.names}
    assert {ours.partition(" ")[0] for ours in nearest.FLAGS.values()} <= flags


@pytest.mark.parametrize("word", ["stpo", "tsop", "stopp", "sstop", "stops"])
def test_a_slip_in_stop(word: str) -> None:
    assert offered(word) == "stop"


@pytest.mark.parametrize(
    "word", ["top", "shop", "stap", "sop", "to", "atop", "loop", "drop", "move", "renew", "rem"]
)
def test_what_does_harm_is_not_offered_for_other_words(word: str) -> None:
    assert offered(word) not in nearest.DESTRUCTIVE


@settings(deadline=None)
@given(WORDS)
def test_what_does_harm_is_offered_for_its_own_name_alone(word: str) -> None:
    found = offered(word)
    if found in nearest.DESTRUCTIVE and nearest.COMMANDS.get(word) != found:
        near = [name for name in (found, *nearest.COMMANDS) if nearest.distance(word, name) <= 1]
        assert near
        assert len(word) > 3


@given(WORDS, WORDS)
def test_distance_is_one(one: str, other: str) -> None:
    found = nearest.distance(one, other)
    assert found == nearest.distance(other, one)
    assert (found == 0) == (one == other)
    assert abs(len(one) - len(other)) <= found <= max(len(one), len(other))
    for place in range(len(one) - 1):
        swapped = one[:place] + one[place + 1] + one[place] + one[place + 2 :]
        assert nearest.distance(one, swapped) <= 1


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("--memory-limt", "--memory-limit"),
        ("--memroy-limit", "--memory-limit"),
        ("--memory", "--memory-limit"),
        ("--memry", "--memory-limit"),
        ("--cup", "--cpu-limit"),
        ("--disk", "--disk-limit"),
        ("--dsik", "--disk-limit"),
        ("--wrkdir", "--cwd"),
        ("-m", "--memory-limit"),
        ("--workdir", "--cwd"),
        ("--srever", "--server"),
        ("-x", None),
        ("--lines", None),  # which start has not
        ("--color", None),
        ("--on", None),
        ("--", None),
    ],
)
def test_the_nearest_flag(word: str, found: str | None) -> None:
    assert nearest.flag(word, sorted(VALUED | ALONE)) == found


@pytest.mark.parametrize(
    ("word", "found"),
    [("--forc", "--force"), ("--fore", "--force"), ("--for", None), ("--fo", None), ("--focus", None)],
)
def test_a_flag_that_does_harm_is_offered_for_its_own_name_alone(word: str, found: str | None) -> None:
    assert nearest.flag(word, ["--force", "--days"]) == found


@pytest.mark.parametrize("word", ["-9", "-KILL", "-SIGKILL"])
def test_a_signal_that_kills_is_a_stop_without_a_grace(word: str) -> None:
    assert nearest.flag(word, ["--grace", "--server"]) == "--grace 0"
    assert nearest.flag(word, ["--server"]) is None


def test_a_short_flag_with_its_value_behind_it() -> None:
    assert nearest.flag("-n5", ["--tail"]) == "--tail"
    assert nearest.flag("-nx", ["--tail"]) is None


@pytest.mark.parametrize("word", ["a" * 10**6, "--" + "a" * 10**6])
def test_a_long_word_is_compared_with_nothing(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    """As when a whole script stands where a command or a flag should."""

    def fail(*_: str) -> int:
        raise AssertionError("that takes a minute")

    monkeypatch.setattr(nearest, "distance", fail)
    assert offered(word) is None
    assert nearest.flag(word, VALUED) is None
    assert len(nearest.no_flag("run", word, VALUED, ".")) < 100
