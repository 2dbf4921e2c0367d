"""Owns what a start asks for, checked and completed: a process's program, environment and directory."""

import os
from collections.abc import Mapping

from wire.errors import ErrorCode, RequestError
from wire.jobs import StartParams

from .child import ProcessSpec
from .users import User

#: What a job inherits of the server's environment, if it is there.
INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE", "TZ")
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def process_spec(
    params: StartParams, most: int, user: User | None = None, directory: bytes = b"/"
) -> ProcessSpec:
    """Check what the kernel would take wrongly or not at all, and settle the defaults."""
    environment = environment_of(os.environ, user) | (params.env or {})
    cwd = directory if params.cwd is None else params.cwd
    # In few steps, as there may be 65,000 words.
    words = b"".join((*params.argv, cwd, *environment, *environment.values()))
    names = params.env or {}
    problem: tuple[str, str] | None = None
    if not params.argv or not params.argv[0]:
        problem = ("argv", "argv must name a program")
    elif b"\0" in words:
        field = "argv" if b"\0" in b"".join(params.argv) else "cwd" if b"\0" in cwd else "env"
        problem = (field, "arguments, environment and directory may hold no NUL byte")
    elif b"" in names or b"=" in b"".join(names):
        problem = ("env", "the name of an environment variable may be neither empty nor hold '='")
    elif not cwd.startswith(b"/"):
        problem = ("cwd", "cwd must be an absolute path")
    elif len(words) > most:
        reason = f"arguments and environment may weigh {most} bytes together (--max-argument-bytes)"
        problem = ("argv", reason)
    if problem is not None:
        raise RequestError(ErrorCode.BAD_REQUEST, f"start: {problem[1]}.", field=problem[0])
    return ProcessSpec(params.argv, environment, cwd, params.merge, user)


def environment_of(server: Mapping[str, str], user: User | None = None) -> dict[bytes, bytes]:
    inherited = {name: server[name] for name in INHERITED if name in server}
    if user is not None:
        inherited |= user.environment()
    return {
        os.fsencode(name): os.fsencode(value) for name, value in ({"PATH": DEFAULT_PATH} | inherited).items()
    }
