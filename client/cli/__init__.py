"""Owns the `worker-service` program: its one way in, and its one way out for errors."""

import os
import sys
from collections.abc import Sequence


from cyclopts.exceptions import CycloptsError


from . import exits, words
from .commands import app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; every failure is one sentence on stderr.

    Args:
        arguments: the words after the program's name.
    """
    job_command = bool(arguments) and arguments[0] in ("run", "wait")
    try:
        tokens = words.settle(arguments)
        return app(tokens, exit_on_error=False, print_error=False, result_action="return_value") or 0
    except KeyboardInterrupt:
        return exits.Exit.SIGNAL + 2
    except BrokenPipeError:
        # Our reader has gone, as in `| head`. Python must not try once more at its own end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return exits.Exit.SIGNAL + 13
    except CycloptsError as error:
        complain(f"{_first_line(error)} See `worker-service --help`.")
        return exits.Exit.USAGE
    except exits.EXPECTED as error:
        complain(str(error))
        return exits.as_ours(error) if job_command else exits.exit_code(error)
    except OSError as error:
        complain(f"{error.strerror or error}.")
        return exits.Exit.OURS if job_command else exits.Exit.CONNECTION


def complain(sentence: str) -> None:
    """Say on stderr what is wrong."""
    sys.stderr.write(f"worker-service: {sentence}\n")


def _first_line(error: CycloptsError) -> str:
    return " ".join(str(error).split())
