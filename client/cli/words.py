"""Owns the step before cyclopts: the single-dash ``-command``, and where a job's own words begin."""

import re
import shlex
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from . import nearest
from .exits import UsageError

CONNECTION = frozenset({"--server", "--certs", "--identity", "--patience"})
#: The flags of `start` and `run` that take a value, and those that stand alone.
VALUED = CONNECTION | {
    *("--cpu-limit", "--memory-limit", "--disk-limit", "--pids-limit", "--cpu-weight", "--disk-weight"),
    *("--env", "--cwd", "--timeout", "--user"),
}
ALONE = frozenset({"--merge", "--no-merge", "--help", "-h", "--version"})
_SEED = ("-command", "--command")
_NUMBER: Final = re.compile(r"-\d+")


def settle(words: Sequence[str]) -> list[str]:
    """Rewrite a command line so that a job's command stands behind ``--``, untouched.

    ``start -command "sort" "big.txt -o out.txt" --cpu-limit 512`` becomes
    ``start --cpu-limit=512 -- sort big.txt -o out.txt``; in ``run ls -l``, what follows the program
    is the program's. Other commands stay as they are.

    Raises:
        UsageError: a flag is unknown or lacks its value, ``-command`` has no program, or its arguments
            have an open quote; or another command has a flag that is a number.
    """
    rest = list(words)
    leading: list[str] = []
    while rest and rest[0].partition("=")[0] in CONNECTION:  # people also put these before the command
        leading.append(_valued(rest))
    if leading and not rest:
        raise UsageError("no command was given: see `worker-service --help`.")
    if not rest or rest[0] not in ("start", "run"):
        _check_numbers(rest)
        return rest[:1] + leading + rest[1:]
    name = rest.pop(0)
    flags, program, arguments = [name, *leading], None, None
    while rest:
        word = rest[0]
        flag, equals, value = word.partition("=")
        if word == "--":
            break
        if flag in _SEED:
            if program is not None:
                raise UsageError(f"{flag} may be given only once.")
            rest.pop(0)
            if not equals and not rest:
                raise UsageError(f"{flag} needs a program, such as {flag} sort.")
            program = value if equals else rest.pop(0)
        elif flag in VALUED:
            flags.append(_valued(rest))
        elif word in ALONE:
            flags.append(rest.pop(0))
            if {"--merge", "--no-merge"} <= set(flags):
                raise UsageError("--merge and --no-merge cannot be given together.")
        elif flag in ALONE:
            raise UsageError(f"{flag} takes no value.")
        elif program is not None and arguments is None and _is_arguments(word):
            arguments = _split(rest.pop(0))
        elif word.startswith("-") and word != "-":
            raise UsageError(_no_flag(name, flag, program, dashes="--" in rest))
        elif program is None:
            break
        else:
            raise UsageError(
                f"{word!r:.60} is one word too many: -command takes a program and one string of arguments."
            )
    if rest and rest[0] == "--":
        rest.pop(0)
    command = rest if program is None else [program, *(arguments or []), *rest]
    return [*flags, "--", *command] if command else flags


def _check_numbers(words: list[str]) -> None:
    """Refuse what cyclopts takes for a number, and thus for a job's id, and people mean as a flag."""
    for before, word in pairwise(words):
        if _NUMBER.fullmatch(word) and not before.startswith("--"):  # not a flag's value
            flags = ("--grace",) * (words[0] == "stop")
            raise UsageError(nearest.no_flag(words[0], word, flags, f": {_see(words[0])}"))


def _no_flag(name: str, flag: str, program: str | None, *, dashes: bool) -> str:
    """Say that `start` or `run` has no such flag: it is a slip, or is meant for the job's program."""
    otherwise = f": {_see(name)}"
    if not dashes:
        otherwise = (
            "; a program's own flags come behind a --, as in: "
            f"worker-service {name} -- {program or 'ls'} {flag}."
        )
    return nearest.no_flag(name, flag, VALUED | ALONE, otherwise)


def _see(name: str) -> str:
    return f"see `worker-service {name} --help`."


def _valued(rest: list[str]) -> str:
    """Take a flag and its value off the front, as one word, so that the value may begin with a dash."""
    flag = rest.pop(0)
    if "=" in flag:
        return flag
    if not rest or rest[0] == "--":
        raise UsageError(f"{flag} needs a value.")
    return f"{flag}={rest.pop(0)}"


def _is_arguments(word: str) -> bool:
    """Whether a word that is none of our flags is the string of arguments of ``-command``, dash or not."""
    if not word.startswith("--"):
        return True
    first, *more = word.split()
    return bool(more) and first.partition("=")[0] not in VALUED | ALONE


def _split(arguments: str) -> list[str]:
    try:
        return shlex.split(arguments)
    except ValueError as error:
        raise UsageError(f"the arguments {arguments!r} cannot be split into words: {error}.") from error
