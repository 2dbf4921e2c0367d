"""Owns the sentence for each way in which cyclopts finds a command line at fault."""

from typing import Literal, get_args, get_origin

from cyclopts import App
from cyclopts.exceptions import (
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)


def sentence(error: CycloptsError) -> str:
    """Say in one sentence what is wrong with a command line."""
    chain = " ".join(error.command_chain or ())
    at = chain or "worker-service"
    see = f"see `worker-service {chain} --help`" if chain else "see `worker-service --help`"
    match error:
        case UnknownCommandError(unused_tokens=[word, *_]) if word.startswith("-"):
            return f"{at} has no flag {word}: {see}."
        case UnknownCommandError(unused_tokens=[word, *_]):
            return f"there is no command {word!r}: {_nearest(word, error.app) or see + '.'}"
        case UnknownOptionError(token=token):
            flag = (token.keyword or token.value).partition("=")[0]
            return f"{at} has no flag {flag}: {see}."
        case UnusedCliTokensError(unused_tokens=[word, *_]):
            return f"{word!r} is one word too many for {at}: {see}."
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
            return f"{token.keyword} {token.value!r} is not a number."
        case _:
            return f"{' '.join(str(error).split())} {see[0].upper()}{see[1:]}."


def _nearest(word: str, app: App | None) -> str | None:
    import difflib

    found = difflib.get_close_matches(word, [] if app is None else list(app), 1)
    return f"did you mean {found[0]}?" if found else None
