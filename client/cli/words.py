"""Owns the step before cyclopts: the seed's single-dash ``-command``, and where a job's own words begin."""

import shlex
from collections.abc import Sequence

from .exits import UsageError

#: Flags of `start` and `run` that take a value; every other word with a dash is a flag alone.
CONNECTION = frozenset({"--server", "--certs", "--identity"})
VALUED = CONNECTION | {
    *("--cpu-limit", "--memory-limit", "--disk-limit", "--pids-limit"),
    *("--env", "--cwd", "--timeout"),
}


def settle(words: Sequence[str]) -> list[str]:
    """Rewrite a command line so that a job's command stands behind ``--``, untouched.

    ``start -command "sort" "big.txt -o out.txt" --cpu-limit 512`` becomes
    ``start --cpu-limit 512 -- sort big.txt -o out.txt``; in ``run ls -l``, what follows the program
    is the program's. Other commands stay as they are.

    Raises:
        UsageError: ``-command`` without a program, or its arguments have an open quote.
    """
    rest = list(words)
    leading: list[str] = []
    while rest and rest[0].partition("=")[0] in CONNECTION:  # people also put these before the command
        leading.append(rest.pop(0))
        if "=" not in leading[-1] and rest:
            leading.append(rest.pop(0))
    if not rest or rest[0] not in ("start", "run"):
        return rest[:1] + leading + rest[1:]
    flags, command = [rest.pop(0), *leading], list[str]()
    seed_style = False
    while rest:
        word = rest.pop(0)
        if word in ("-command", "--command"):
            if not rest:
                raise UsageError(f"{word} needs a program, such as {word} sort.")
            seed_style = True
            command = [rest.pop(0)]
            # The second string is the arguments, though it may begin with a dash; a flag is no such string.
            if rest and rest[0] != "--" and not rest[0].startswith("--"):
                command += _split(rest.pop(0))
        elif word == "--":
            if seed_style:
                command += rest
                break
            return [*flags, "--", *rest]
        elif word.startswith("-") and word != "-":
            flags.append(word)
            if word in VALUED and rest:
                flags.append(rest.pop(0))
        elif seed_style:
            raise UsageError(
                f"{word!r} is one word too many: -command takes a program and one string of arguments."
            )
        else:
            return [*flags, "--", word, *rest]
    return [*flags, "--", *command] if seed_style else flags


def _split(arguments: str) -> list[str]:
    try:
        return shlex.split(arguments)
    except ValueError as error:
        raise UsageError(f"the arguments {arguments!r} cannot be split into words: {error}.") from error
