"""Owns the records that requests and replies carry: jobs, their causes, and each method's parameters."""

import enum
from dataclasses import dataclass

from .limits import Limits
from .messages import STDERR, STDOUT

#: How a note begins that is of now, and not of the start: the job prints more than the server has room for.
WAITS = "The job waits"


class Status(enum.StrEnum):
    """A job's status; a newer server may have others, which stay text, as do other causes."""

    RUNNING = "running"
    EXITED = "exited"
    SIGNALED = "signaled"


class CauseKind(enum.StrEnum):
    """Why a job ended."""

    EXITED = "exited"
    SIGNALED = "signaled"
    STOPPED = "stopped"
    OOM = "oom"
    TIMEOUT = "timeout"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a job ended; ``by`` names the identity that stopped it, ``detail`` is for people."""

    kind: CauseKind | str
    by: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a job has used, all its processes together; None is not known, or not counted by the host.

    Args:
        cpu_user: seconds of CPU time in user mode.
        cpu_system: seconds of CPU time in the kernel.
        max_rss: bytes, the most that its largest process had resident; known only at the end, and only if
            it is more than the process had before it became the job's program.
        memory: bytes now.
        memory_peak: bytes, the most so far.
        tasks: processes and threads now.
        disk_read: bytes read from disks.
        disk_written: bytes written to disks.
        disk_reads: read operations.
        disk_writes: write operations.
        throttled: seconds that its CPU limit held it back.
    """

    cpu_user: float
    cpu_system: float
    max_rss: int | None = None
    memory: int | None = None
    memory_peak: int | None = None
    tasks: int | None = None
    disk_read: int | None = None
    disk_written: int | None = None
    disk_reads: int | None = None
    disk_writes: int | None = None
    throttled: float | None = None


@dataclass(frozen=True, slots=True)
class JobStatus:
    """All that the server tells of one job. Times are Unix seconds; ``output`` counts bytes so far.

    ``exit_code`` is there once ``status`` is exited, ``signal`` once it is signaled, ``cause`` and
    ``ended`` in both cases. ``notes`` are sentences for people about its start, such as a limit that is
    more than the machine has. Of the output, the first ``dropped`` bytes are gone, by the server's policy.
    ``user`` is the user of the server's host that it runs as, by name.
    """

    id: str
    status: Status | str
    pid: int
    argv: tuple[bytes, ...]
    owner: str
    started: float
    output: int
    exit_code: int | None = None
    signal: int | None = None
    cause: Cause | None = None
    ended: float | None = None
    cwd: bytes | None = None
    limits: Limits | None = None
    usage: Usage | None = None
    notes: tuple[str, ...] = ()
    dropped: int | None = None
    user: str | None = None

    @property
    def has_ended(self) -> bool:
        """Whether the job has ended, also if its status is none that we know."""
        return self.ended is not None or self.status in (Status.EXITED, Status.SIGNALED)


@dataclass(frozen=True, slots=True)
class StartParams:
    """Parameters of ``start``.

    ``argv`` is the program and its arguments. ``env`` is added to the server's allow-list.
    ``cwd`` is an absolute path (default: the server's). ``merge`` gives stdout and stderr one pipe.
    ``timeout`` stops the job after that many seconds, as ``stop`` with the default grace would.
    ``user`` names the user of the server's host to run as (default: the operator's choice). ``id`` is the
    job's, a UUID: the same start again is answered with the same job.
    """

    argv: tuple[bytes, ...]
    env: dict[bytes, bytes] | None = None
    cwd: bytes | None = None
    merge: bool = False
    timeout: float | None = None
    limits: Limits | None = None
    user: str | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class StopParams:
    """Parameters of ``stop``: a job's id or unique prefix, and seconds between TERM and KILL."""

    id: str
    grace: float | None = None


@dataclass(frozen=True, slots=True)
class JobParams:
    """Parameters of ``query``, ``wait`` and ``remove``: a job's id or unique prefix."""

    id: str


@dataclass(frozen=True, slots=True)
class StreamParams:
    """Parameters of ``stream``: a job's id or unique prefix, and which part of its log is wanted.

    It begins at byte ``offset``, or, one of these given, at the last ``tail_bytes`` bytes or
    ``tail_lines`` lines that are there, or with what was printed since the Unix time ``since``.
    ``follow`` goes on to the job's end; without it, the stream ends where the log does now. ``stream``
    is 1 or 2 to have stdout or stderr alone.
    """

    id: str
    offset: int = 0
    follow: bool = True
    tail_bytes: int | None = None
    tail_lines: int | None = None
    since: float | None = None
    stream: int | None = None

    @property
    def relative(self) -> bool:
        """Whether the server alone knows at which byte it begins."""
        return not (self.tail_bytes is None and self.tail_lines is None and self.since is None)

    def problem(self) -> tuple[str, str] | None:
        """A field that makes no sense, and why, in words for people; None if all do."""
        starts = {"tail_bytes": self.tail_bytes, "tail_lines": self.tail_lines, "since": self.since}
        given = ["offset"] * bool(self.offset) + [name for name, value in starts.items() if value is not None]
        if len(given) > 1:
            return given[1], "only one of offset, tail_bytes, tail_lines and since may be given"
        if self.stream not in (None, STDOUT, STDERR):
            return "stream", f"stream must be {STDOUT} (stdout) or {STDERR} (stderr)"
        return None


@dataclass(frozen=True, slots=True)
class ListParams:
    """Parameters of ``list``: the job id after which to go on, for the next page."""

    after: str | None = None


@dataclass(frozen=True, slots=True)
class JobReply:
    """The result of ``start``, ``stop``, ``query``, ``wait``, ``remove``, and the end of ``stream``."""

    job: JobStatus


@dataclass(frozen=True, slots=True)
class ListReply:
    """The result of ``list``: jobs, oldest first; ``next`` is the ``after`` of the next page, if any."""

    jobs: tuple[JobStatus, ...]
    next: str | None = None
