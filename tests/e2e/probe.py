"""Owns what a job of these tests tells of itself: ``python -I -S probe.py`` prints one JSON object.

It imports the standard library alone, and only what tells; what Python itself changes is not looked at.
"""

import ctypes
import json
import os
import resource
import stat
import sys

libc = ctypes.CDLL(None, use_errno=True)
KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219}[os.uname().machine]
SECUREBITS, GET_KEYRING_ID, SESSION, SEARCH = 27, 0, -3, 10


def search_key(name: str) -> bool:
    """Whether a key of this name can be reached by way of the session keyring."""
    return int(libc.syscall(KEYCTL, SEARCH, SESSION, b"user", name.encode(), 0)) >= 0


def attempt(act: str, *arguments: object) -> str:
    """What an operating system call of the module os comes to: ok, or its errno's name."""
    import errno

    try:
        getattr(os, act)(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"


def main() -> None:
    """Tell it."""
    status = dict(line.split(":\t", 1) for line in open("/proc/self/status"))  # noqa: SIM115, PTH123
    terminal = attempt("open", "/dev/tty", os.O_RDWR)
    reopened = attempt("open", "/proc/self/fd/1", os.O_WRONLY)
    print(  # noqa: T201
        json.dumps(
            {
                "uids": status["Uid"].split(),
                "gids": status["Gid"].split(),
                "groups": sorted(os.getgroups()),
                "capabilities": {
                    name: int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
                },
                "no_new_privs": int(status["NoNewPrivs"]),
                "securebits": libc.prctl(SECUREBITS, 0, 0, 0, 0),
                "umask": os.umask(0),
                "nice": os.getpriority(os.PRIO_PROCESS, 0),
                "policy": os.sched_getscheduler(0),
                "oom_score_adj": int(open("/proc/self/oom_score_adj").read()),  # noqa: SIM115, PTH123
                "limits": {
                    name: resource.getrlimit(getattr(resource, name))
                    for name in ("RLIMIT_CORE", "RLIMIT_NOFILE", "RLIMIT_STACK", "RLIMIT_NPROC")
                },
                "terminal": terminal,
                "session": [os.getsid(0), os.getpgid(0), os.getpid()],
                "keyring": libc.syscall(KEYCTL, GET_KEYRING_ID, SESSION, 0),
                "key": search_key(sys.argv[1]) if len(sys.argv) > 1 else None,
                "environment": dict(os.environ),
                "stdout_owner": os.fstat(1).st_uid if stat.S_ISFIFO(os.fstat(1).st_mode) else None,
                "reopened": reopened,
                "back_to_root": attempt("setuid", 0),
                "kill_parent": attempt("kill", os.getppid(), 0),
            }
        )
    )


if __name__ == "__main__":
    main()
