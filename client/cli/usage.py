"""Owns the sentence for each way in which cyclopts finds a command line at fault."""

from collections.abc import Iterable
from typing import Literal, get_args, get_origin

from cyclopts.exceptions import (
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from wire.durations import NO_DURATION

from . import nearest
from .words import CONNECTION

#: The flags that stand before a command.
_GLOBAL = (*CONNECTION, "--help", "--version")


def sentence(error: CycloptsError) -> str:
    """Say in one sentence what is wrong with a command line."""
    chain = " ".join(error.command_chain or ())
    at = chain or "worker-service"
    see = f"see `worker-service {chain} --help`" if chain else "see `worker-service --help`"
    match error:
        case UnknownCommandError(unused_tokens=[word, *_]) if word.startswith("-"):
            return _no_flag(at, word, _GLOBAL, see)
        case UnknownCommandError(unused_tokens=[word, *_]):
            names = [] if error.app is None else [name for name in error.app if not name.startswith("-")]
            found = nearest.command(word, names, nearest.CERTS if chain else nearest.COMMANDS)
            return f"there is no command {word!r:.60}: {_offer(found, see)}"
        case UnknownOptionError(token=token, argument_collection=arguments):
            flags = [name for argument in arguments for name in argument.names]
            return _no_flag(at, token.keyword or token.value, flags, see)
        case UnusedCliTokensError(unused_tokens=[word, *_]):
            return f"{word!r:.60} is one word too many for {at}: {see}."
        case MissingArgumentError(argument=argument, keyword=None) if chain.startswith("certs") and argument:
            wanted = argument.name if argument.name.startswith("-") else f"a {argument.name}"
            return f"{at} needs {wanted}: {see}."
        case MissingArgumentError(argument=argument, keyword=None) if argument is not None:
            return f"{at} needs a job's id; `worker-service list` shows those there are."
        case MissingArgumentError(keyword=keyword):
            return f"{keyword} needs a value: {see}."
        case RepeatArgumentError(token=token):
            return f"{token.keyword} may be given only once."
        case CoercionError(token=token, target_type=kind) if token is not None and token.keyword:
            if kind is bool:
                return f"{token.keyword} takes no value."
            if get_origin(kind) is Literal:
                return f"{token.keyword} {token.value!r} is none of {', '.join(get_args(kind))}."
            if kind is float:
                return f"{token.keyword} {NO_DURATION.format(token.value)}"
            return f"{token.keyword} {token.value!r} is not a number."
        case _:
            return f"{' '.join(str(error).split())} {see[0].upper()}{see[1:]}."


def _no_flag(command: str, word: str, flags: Iterable[str], see: str) -> str:
    return nearest.no_flag(command, word.partition("=")[0], flags, f": {see}.")


def _offer(found: str | None, see: str) -> str:
    return f"did you mean {found}?" if found else f"{see}."
