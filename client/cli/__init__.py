"""Owns the `worker-service` program: its one way in, and its one way out for errors."""

import contextlib
import os
import sys
import warnings
from collections.abc import Sequence

from cyclopts.exceptions import CycloptsError

from certs.refusals import plain

from . import exits, streams, usage, words
from .commands import app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    streams.take_over()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # they are for who wrote this, and stderr is for who uses it
    for name in [name for name, value in os.environ.items() if name.startswith("WORKER_SERVICE_")]:
        if not os.environ[name]:  # set but empty is as good as not set
            del os.environ[name]
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; every failure is one sentence on stderr.

    Args:
        arguments: the words after the program's name.
    """
    job_command, tokens = False, list[str]()
    try:
        tokens = words.settle(arguments)
        job_command = tokens[:1] in (["run"], ["wait"])
        shown = streams.at_once() if _asks_for_help(tokens) else contextlib.nullcontext()
        with shown:
            return app(tokens, exit_on_error=False, print_error=False, result_action="return_value") or 0
    except KeyboardInterrupt:
        return exits.Exit.SIGNAL + 2
    except exits.ReaderLeftError:
        return exits.Exit.SIGNAL + 13
    except CycloptsError as error:
        streams.complain(usage.sentence(error))
        return exits.Exit.USAGE
    except exits.EXPECTED as error:
        streams.complain(_blamed(exits.sentence(error), tokens))
        return exits.as_ours(error) if job_command else exits.exit_code(error)
    except OSError as error:
        streams.complain(f"{plain(error)}.")
        return exits.Exit.OURS if job_command else exits.Exit.FAILED
    except Exception as error:  # noqa: BLE001  # a traceback is nothing for people
        streams.complain(_defect(error))
        return exits.Exit.OURS if job_command else exits.Exit.SERVER


def _blamed(sentence: str, tokens: list[str]) -> str:
    """A sentence of the `certs` commands, with the variable in place of the flag if that was not given."""
    if tokens[:1] != ["certs"] or "WORKER_SERVICE_CERTS" not in os.environ:
        return sentence
    given = any(word.partition("=")[0] == "--dir" for word in tokens)
    return sentence if given else sentence.replace("--dir", "WORKER_SERVICE_CERTS")


def _asks_for_help(tokens: list[str]) -> bool:
    own = tokens[: tokens.index("--")] if "--" in tokens else tokens
    return not own or not {"--help", "-h", "--version"}.isdisjoint(own)


def _defect(error: Exception) -> str:
    """What is said of an error that nobody has thought of: enough to find it by."""
    if isinstance(error, MemoryError):
        return "there is not enough memory (ulimit -v)."
    place, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        place, trace = f"{os.path.basename(code.co_filename)}:{trace.tb_lineno}", trace.tb_next  # noqa: PTH119
    return (
        f"this is a defect of worker-service, please report it: {type(error).__name__} at {place} ({error})."
    )
