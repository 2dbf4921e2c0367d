"""Owns the step from what went wrong on this host to the error that a client reads: the one place."""

import errno
import os

from wire.errors import ErrorCode, RequestError

from .ceilings import LimitRefusedError
from .child import ProcessSpec, SpawnError


def explain_start(spec: ProcessSpec, error: SpawnError | LimitRefusedError | OSError) -> RequestError:
    """Say why a job could not be started."""
    if isinstance(error, LimitRefusedError):
        return RequestError(ErrorCode.LIMIT_REFUSED, str(error), limit=error.limit)
    if isinstance(error, OSError):
        return RequestError(ErrorCode.START_FAILED, f"The server could not set the job up: {error.strerror}.")
    program, reason = (
        os.fsdecode(spec.argv[0]),
        os.strerror(error.errno) if error.errno else "see the server's log",
    )
    who = "The server" if spec.user is None else f"The user {spec.user.name!r:.60}"
    match error.step, error.errno:
        case "user", _:
            return RequestError(
                ErrorCode.BAD_USER,
                f"The server may not run jobs as another user, such as {who[9:]}: {reason}; "
                "run it as root, or leave the user out.",
            )
        case "lost", _:
            return RequestError(ErrorCode.START_FAILED, "The server's spawner died; please try again.")
        case "timeout", _:
            return RequestError(
                ErrorCode.START_FAILED,
                "The program did not start in time: its file or directory may be on a mount that hangs.",
            )
        case "cwd", _:
            return RequestError(
                ErrorCode.BAD_DIRECTORY,
                f"{'The job' if spec.user is None else who} cannot work in "
                f"{os.fsdecode(spec.cwd)!r:.200} on the server: {reason}.",
            )
        case "exec", errno.ENOENT | errno.ENOTDIR:
            hint = "it is not on the job's PATH; give its full path"
            if "/" in program:
                hint = "check the path"
            return RequestError(
                ErrorCode.NO_SUCH_PROGRAM, f"There is no program {program!r:.200} on the server: {hint}."
            )
        case "exec", errno.EACCES | errno.EPERM:
            return RequestError(
                ErrorCode.NOT_EXECUTABLE, f"{who} may not execute {program!r:.200}: {reason}."
            )
        case "interpreter", _:
            return RequestError(
                ErrorCode.NOT_EXECUTABLE,
                f"{program!r:.200} is there, and what would run it is not: check the interpreter that its #! "
                "line names, or how it was built.",
            )
        case "exec", errno.ENOEXEC:
            return RequestError(
                ErrorCode.NOT_EXECUTABLE,
                f"{program!r:.200} is not a program that Linux can run; a script needs a #! line.",
            )
        case "exec", errno.E2BIG:
            return RequestError(
                ErrorCode.BAD_REQUEST, "The arguments and the environment are too large.", field="argv"
            )
        case _:
            return RequestError(
                ErrorCode.START_FAILED, f"The job could not be started ({error.step}: {reason})."
            )
