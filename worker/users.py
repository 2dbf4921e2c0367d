"""Owns who a job runs as: what the operator allows, and the look-up of a user's name.

Names may be looked up over the network (nsswitch.conf(5)), so it is done in a thread, with a deadline, and
never between fork and exec. What happens with the answer there is `worker.privileges`.
"""

import os
import pwd
from dataclasses import dataclass
from functools import partial

import trio

from wire.errors import ErrorCode, RequestError

from .threads import NoThreadError, run_in_thread

#: Longest wait for an answer, in seconds; how many may hang at once; the longest name that is looked up.
LOOKUP_DEADLINE = 10.0
MAX_LOOKUPS = 8
MAX_NAME = 256


@dataclass(frozen=True, slots=True)
class User:
    """One user of this host, as passwd(5) has it, with all of its groups."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    shell: str

    def credentials(self) -> tuple[int, int, tuple[int, ...]] | None:
        """Uid, gid and groups for the spawner to take; None if we are that user, and can be nobody else."""
        return None if self.uid == os.geteuid() != 0 else (self.uid, self.gid, self.groups)

    def environment(self) -> dict[str, str]:
        """What a login would set."""
        return {"HOME": self.home, "USER": self.name, "LOGNAME": self.name, "SHELL": self.shell}


#: No user and no group has this number: setresuid(2).
NO_ID = 2**32 - 1


def look_up(name: str) -> User:
    """Look a user up; this may block.

    Raises:
        KeyError: there is none.
    """
    if not 0 < len(name) <= MAX_NAME or "\0" in name:
        raise KeyError(name)
    found = pwd.getpwnam(name)
    groups = tuple(os.getgrouplist(found.pw_name, found.pw_gid))
    # To the kernel the largest number means "as it is": the job would stay who we are.
    if not all(0 <= number < NO_ID for number in (found.pw_uid, found.pw_gid, *groups)):
        raise KeyError(name)
    return User(found.pw_name, found.pw_uid, found.pw_gid, groups, found.pw_dir, found.pw_shell or "/bin/sh")


def own_name() -> str:
    """The name of the user that we run as; its number if it has none."""
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


class Users:
    """Who jobs may run as.

    Args:
        default: the user of jobs whose request names none; None for the server's own.
        pinned: whether a request may name no other.
    """

    def __init__(self, default: str | None = None, *, pinned: bool = False) -> None:
        self._default = default
        self._pinned = pinned
        self._limiter = trio.CapacityLimiter(MAX_LOOKUPS)
        self.own = own_name()

    async def find(self, name: str | None) -> User | None:
        """Return the user that a request asks for; None for the server's own, as it is.

        Raises:
            RequestError: there is no such user, the operator wants another one, or nobody can say now.
        """
        await trio.lowlevel.checkpoint()
        if self._pinned and name not in (None, self._default):
            raise RequestError(
                ErrorCode.BAD_USER,
                f"This server runs every job as {self._default!r}: leave the user out of the request.",
            )
        name = self._default if name is None else name
        if name is None:
            return None
        try:
            with trio.fail_after(LOOKUP_DEADLINE):
                return await run_in_thread(
                    partial(look_up, name), abandon_on_cancel=True, limiter=self._limiter
                )
        except KeyError:
            raise RequestError(
                ErrorCode.BAD_USER, f"There is no user {name!r:.60} on the server: check the name."
            ) from None
        except NoThreadError:
            raise RequestError(
                ErrorCode.BUSY,
                f"The server has no thread left to look up the user {name!r:.60}; please try again later.",
            ) from None
        except trio.TooSlowError:
            raise RequestError(
                ErrorCode.START_FAILED,
                f"The server's host did not say in time who the user {name!r:.60} is; please try again.",
            ) from None
