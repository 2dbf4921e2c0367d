"""Owns what both clients' methods may be given, and says in words what they may not."""

import os
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from wire.jobs import StartParams
from wire.limits import Limits


def start_params(
    argv: Sequence[str | bytes],
    env: Mapping[str, str] | None,
    cwd: str | os.PathLike[str] | None,
    limits: Limits | None,
    *,
    merge: bool,
    seconds: float | None,
    user: str | None = None,
    job_id: str | None = None,
) -> StartParams:
    """Build the parameters of ``start`` from what callers have; text becomes bytes as in os.fsencode.

    Raises:
        TypeError, ValueError: an argument is none that a job can have; which one, and what to write instead.
    """
    if isinstance(argv, str | bytes):
        raise TypeError(
            f"argv is a list of words, and {argv!r} is one string: write {argv.split()!r}, "
            f"or ['sh', '-c', {argv!r}] if a shell is to read it"
        )
    if not isinstance(argv, Sequence):
        raise TypeError(f"argv must be a list of words, not {_kind(argv)}")
    if not argv:
        raise ValueError("argv is empty: its first word is the program")
    _check("limits", limits, Limits)
    _check("merge", merge, bool)
    _check("seconds", seconds, int, float)
    _check("user", user, str)
    _check("id", job_id, str)
    return StartParams(
        argv=tuple(_octets(f"argv[{place}]", word) for place, word in enumerate(argv)),
        env=None if env is None else _variables(env) or None,
        cwd=None if cwd is None else _octets("cwd", cwd),
        merge=merge,
        timeout=seconds,
        limits=limits or None,
        user=user,
        id=str(uuid.uuid4()) if job_id is None else job_id,
    )


def check_job_id(job_id: object) -> None:
    """Raise TypeError for what cannot be a job's id, such as the JobStatus that has one."""
    if not isinstance(job_id, str):
        instead = ": write job.id" if hasattr(job_id, "id") else ""
        raise TypeError(f"a job is named by its id, a str, and not by {_kind(job_id)}{instead}")


def _variables(env: Mapping[str, str]) -> dict[bytes, bytes]:
    if not isinstance(env, Mapping):
        raise TypeError(f"env must be a dict of variables, not {_kind(env)}")
    found = {}
    for name, value in env.items():
        octets = _octets("a variable's name in env", name)
        if not octets or b"=" in octets:
            raise ValueError(f"{name!r} in env cannot be a variable's name: it is empty, or has a '='")
        found[octets] = _octets(f"env[{name!r}]", value)
    return found


def _octets(what: str, value: Any) -> bytes:
    """What the kernel takes for a word."""
    try:
        octets = os.fsencode(value)
    except TypeError:
        raise TypeError(f"{what} must be a str, not {_kind(value)}") from None
    except UnicodeEncodeError:
        raise ValueError(f"{what} is no text that can be encoded: {value!r}") from None
    if 0 in octets:
        raise ValueError(f"{what} holds a NUL byte, which nothing that is given to a program can: {value!r}")
    return octets


def _check(name: str, value: object, *kinds: type) -> None:
    fits = isinstance(value, kinds)
    if isinstance(value, bool):  # it is an int to Python, and no number to people
        fits = bool in kinds
    if value is not None and not fits:
        raise TypeError(f"{name} must be {' or '.join(kind.__name__ for kind in kinds)}, not {_kind(value)}")


def _kind(value: object) -> str:
    return f"{type(value).__name__} {value!r:.60}"
