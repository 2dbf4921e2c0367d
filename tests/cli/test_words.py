"""A job's own words are never touched, and its command always stands behind ``--``."""

import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.cli.commands import app
from client.cli.exits import UsageError
from client.cli.words import ALONE, VALUED, settle

NAMES = st.sampled_from(["start", "run"])
ANY = st.text(st.characters(exclude_characters="\0"), max_size=8)
#: Words that a careless reader of command lines would take for its own.
TRICKY = st.sampled_from(
    ["--", "-", "-h", "--help", "--version", "-command", "--cwd", "--merge", "@x", "[1]", ""]
)
WORD = ANY | TRICKY
PROGRAM = ANY.filter(lambda word: word and (word == "-" or not word.startswith("-")))
#: Flags as people give them, and as `settle` leaves them.
FLAG = st.one_of(
    st.just((["--merge"], "--merge")),
    st.tuples(st.sampled_from(sorted(VALUED)), WORD.filter(lambda word: word != "--")).flatmap(
        lambda pair: st.sampled_from(
            [([pair[0], pair[1]], f"{pair[0]}={pair[1]}"), ([f"{pair[0]}={pair[1]}"], f"{pair[0]}={pair[1]}")]
        )
    ),
)
FLAGS = st.lists(FLAG, max_size=4)


def flat(flags: list[tuple[list[str], str]]) -> list[str]:
    return [word for given, _ in flags for word in given]


def settled(flags: list[tuple[list[str], str]]) -> list[str]:
    return [word for _, word in flags]


@given(NAMES, FLAGS, st.lists(WORD, min_size=1))
def test_what_follows_the_dashes_is_untouched(
    name: str, flags: list[tuple[list[str], str]], command: list[str]
) -> None:
    assert settle([name, *flat(flags), "--", *command]) == [name, *settled(flags), "--", *command]


@given(NAMES, FLAGS, PROGRAM, st.lists(WORD))
def test_what_follows_the_program_is_untouched(
    name: str, flags: list[tuple[list[str], str]], program: str, arguments: list[str]
) -> None:
    command = [program, *arguments]
    assert settle([name, *flat(flags), *command]) == [name, *settled(flags), "--", *command]


@given(FLAGS, ANY, st.lists(ANY), FLAGS)
def test_the_seeds_form(
    before: list[tuple[list[str], str]], program: str, words: list[str], after: list[tuple[list[str], str]]
) -> None:
    arguments = " " + shlex.join(words)
    expected = ["start", *settled(before), *settled(after), "--", program, *words]
    line = ["start", *flat(before), "-command", program]
    assert settle([*line, arguments, *flat(after)]) == expected
    assert settle([*line, *flat(after), arguments]) == expected


@settings(deadline=None)  # the first call loads modules
@given(NAMES, st.lists(WORD, min_size=1))
def test_the_command_reaches_the_server_as_it_is(name: str, command: list[str]) -> None:
    """Through cyclopts too, which has its own ideas of words that begin with a dash or a bracket."""
    _, bound, _ = app.parse_args(settle([name, "--cwd", "/", "--", *command]), exit_on_error=False)
    assert bound.args == tuple(command)
    assert bound.kwargs["what"].cwd == "/"


@given(st.lists(WORD))
def test_any_words_are_settled_or_refused_in_one_sentence(words: list[str]) -> None:
    for line in (words, ["start", *words], ["run", "-command", *words]):
        try:
            sentence = ""
            settle(line)
        except UsageError as error:
            sentence = str(error)
        assert sentence[-1:] in (".", "")


@given(st.sampled_from(["query", "stop", "list", "certs", "nope"]), st.lists(WORD))
def test_other_commands_stay_as_they_are(name: str, words: list[str]) -> None:
    assert settle([name, *words]) == [name, *words]
    assert settle(["--server", "a:1", "--identity=x", name, *words]) == [
        name,
        "--server=a:1",
        "--identity=x",
        *words,
    ]


def test_flags_before_the_command_belong_to_it() -> None:
    assert settle(["--server", "a:1", "run", "--merge", "ls", "-l"]) == [
        *("run", "--server=a:1", "--merge", "--", "ls", "-l")
    ]


def test_the_flags_known_here_are_those_of_the_commands() -> None:
    for name in ("start", "run"):
        names = {flag for argument in app[name].assemble_argument_collection() for flag in argument.names}
        flags = {flag for flag in names if flag.startswith("-")}
        assert flags == (VALUED | ALONE) - {"--help", "-h", "--version"}


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("start -command", "-command needs a program, such as -command sort."),
        ("start -command a -command b", "-command may be given only once."),
        (
            "start -command sort a b",
            "'b' is one word too many: -command takes a program and one string of arguments.",
        ),
        (
            'start -command sort "\'a"',
            'the arguments "\'a" cannot be split into words: No closing quotation.',
        ),
        ("start --cpu-limit", "--cpu-limit needs a value."),
        ("start --env -- true", "--env needs a value."),
        ("start --merge=1 -- true", "--merge takes no value."),
        (
            "run --memory-limt 5G -- true",
            "run has no flag --memory-limt: did you mean --memory-limit?",
        ),
        ("run --nope -- true", "run has no flag --nope: see `worker-service run --help`."),
        (
            "start -command ls --color",
            "start has no flag --color; a program's own flags come behind a --, as in: "
            "worker-service start -- ls --color.",
        ),
        (
            "start -command ls '--cwd /tmp'",
            "start has no flag --cwd /tmp; a program's own flags come behind a --, as in: "
            "worker-service start -- ls --cwd /tmp.",
        ),
        ("--server", "--server needs a value."),
        ("--server a:1", "no command was given: see `worker-service --help`."),
    ],
)
def test_sentences(line: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        settle(shlex.split(line))
    assert str(caught.value) == sentence
