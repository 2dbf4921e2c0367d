"""Owns the `serve` command; mounting it imports no Trio."""

import errno
import logging
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from certs.contexts import default_directory
from certs.errors import CertsError
from wire.limits import LimitError, parse_bytes

from .bounds import DEFAULTS, Bounds, Duration

#: Exit codes of `serve`, as PROTOCOL-independent commands share them (README, "Exit codes").
EXIT_CERTS, EXIT_SERVER = 6, 7
#: Less memory for output than a few blocks makes no sense, in bytes.
LEAST_MEMORY = 2**20

app = App(name="serve", help="Run the server: jobs for remote clients, each in its own cgroup.")


@app.default
def serve(
    *,
    listen: Annotated[str, Parameter(env_var="WORKER_SERVICE_LISTEN")] = "127.0.0.1:8443",
    certs: Annotated[Path | None, Parameter(env_var="WORKER_SERVICE_CERTS")] = None,
    arc: str | None = None,
    grace: Duration = 10.0,
    cgroup_parent: str | None = None,
    output_memory: str = "256M",
    job_memory: str = "64M",
    spill_dir: Path | None = None,
    spill_limit: str | None = None,
    overflow: Literal["block", "drop"] = "block",
    retain: str | None = None,
    stall_timeout: Duration = 30.0,
    bounds: Bounds | None = None,
    audit: str | None = None,
    audit_required: bool = False,
    job_user: str | None = None,
    pin_job_user: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    allow_new_privileges: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    allow_core_dumps: Annotated[bool, Parameter(negative="", show_default=False)] = False,
) -> int:
    """Run the server until SIGTERM or Ctrl-C; then stop its jobs in order, and end.

    Parameters
    ----------
    listen:
        HOST:PORT to listen on; port 0 lets the kernel choose, and the log says which.
    certs:
        Directory with ca.crt, server.crt and server.key
        [default: worker-service/certs in ~/.config or $XDG_CONFIG_HOME].
    arc:
        The object identifier below which roles are numbered [default: 1.3.6.1.4.1.12345.1].
    grace:
        How long between TERM and KILL when a job is stopped, where the request names none: 90 (seconds),
        90s, 5m.
    cgroup_parent:
        The cgroup below which jobs get theirs, as a path from the hierarchy's root; made if it is missing
        [default: the server's own cgroup; for root without delegation, the root].
    output_memory:
        How much of all jobs' output is held in memory: 256M, 1G; what is older goes to --spill-dir.
    job_memory:
        How much of one job's output is held in memory.
    spill_dir:
        Where the rest of the output goes, into files without names [default: $TMPDIR or /var/tmp].
    spill_limit:
        How much of all jobs' output is held there [default: half of what is free there at the start].
    overflow:
        Past that, block lets the jobs wait that print more; drop gives up the oldest output, and says so.
    retain:
        How many ended jobs are kept, and for how long: 1000, 24h, or 1000,24h (s, m, h or d)
        [default: all of them, while the server runs].
    stall_timeout:
        How long a client may take nothing of what it is sent before it is given up.
    audit:
        File to which a line is added for each decision and each job event, or stderr; SIGHUP opens it again.
    audit_required:
        Start no job whose line the audit log has not taken.
    job_user:
        The user that jobs run as where the request names none [default: the server's own].
    pin_job_user:
        Refuse requests that name another user than --job-user.
    allow_new_privileges:
        Let jobs use sudo and other set-user-ID programs: no_new_privs is not set.
    allow_core_dumps:
        Leave jobs the server's own limit on core dumps; otherwise it is 0.
    """
    from .inherited import FALLBACK, RelativePathError, settle

    inherited = settle()

    import trio

    from certs.roles import DEFAULT_ARC, Role, role_oid

    from .accept import ListenError
    from .allocator import keep_memory
    from .audit import Audit, Trail
    from .audit_file import STDERR
    from .hierarchy import CgroupError
    from .lacks import lack_of, only, place_of
    from .library_log import LibraryLog
    from .log import BackgroundStream, Log, Stderr
    from .notify import Notifier
    from .privileges import CORE_DUMPS, NEW_PRIVILEGES
    from .retain import parse_retention
    from .server import Config, Server
    from .spill import SpillFiles
    from .store import Budget, Overflow, default_folder
    from .users import Users, look_up

    host, _, port = listen.rpartition(":")
    named = re.fullmatch(r"\[[^\[\]]*:[^\[\]]*\]|[^\[\]:]+", host)
    if not named or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
        source = _source("--listen", "WORKER_SERVICE_LISTEN", listen)
        return _fail(f"{source} {listen!r} is not HOST:PORT, such as 127.0.0.1:8443 or [::1]:8443.", 2)
    if not 0 <= grace <= 86400:
        return _fail(f"--grace {grace:g} must be a number of seconds from 0 to 86400.", 2)
    if not 1 <= stall_timeout <= 86400:
        return _fail(f"--stall-timeout {stall_timeout:g} must be a number of seconds from 1 to 86400.", 2)
    if pin_job_user and job_user is None:
        return _fail("--pin-job-user needs --job-user NAME, the user that every job is to run as.", 2)
    try:
        if job_user is not None:
            look_up(job_user)
    except KeyError:
        return _fail(f"--job-user {job_user!r:.60} names no user of this host: check the name.", EXIT_SERVER)
    permits = {NEW_PRIVILEGES: allow_new_privileges, CORE_DUMPS: allow_core_dumps}
    folder = spill_dir or default_folder()
    default_spill = _source("the default of --spill-dir,", "TMPDIR", str(folder))
    spill_flag = "--spill-dir" if spill_dir else default_spill
    certs_flag = _source("--certs", "WORKER_SERVICE_CERTS", str(certs))
    try:
        folder = inherited.absolute(spill_flag, folder)
        certs = inherited.absolute(certs_flag, certs or default_directory())
        if audit not in (None, STDERR):
            audit = str(inherited.absolute("--audit", Path(audit)))
        budget = Budget(
            _memory("--output-memory", output_memory),
            _memory("--job-memory", job_memory),
            None if spill_limit is None else int(parse_bytes("--spill-limit", spill_limit)),
            folder,
            Overflow(overflow),
        )
        retention = parse_retention(retain)
        bounds = bounds or DEFAULTS
        bounds.check()
        SpillFiles(folder).close()
    except (LimitError, RelativePathError) as error:
        return _fail(str(error), 2)
    except OSError as error:
        return _fail(_unwritable(spill_flag, str(folder), error), EXIT_SERVER)
    config = Config(
        host.strip("[]"),
        int(port),
        certs,
        arc or DEFAULT_ARC,
        grace,
        cgroup_parent,
        budget,
        retention,
        stall_timeout,
        bounds,
        Users(job_user, pinned=pin_job_user),
        tuple(word for word, allowed in permits.items() if allowed),
        inherited.directory or FALLBACK,
    )
    if audit_required and audit is None:
        return _fail("--audit-required needs --audit FILE, which says where the audit log goes.", 2)
    keep_memory()
    try:
        stderr = BackgroundStream(Stderr())
    except OSError as error:  # it cannot start its thread
        return _fail(lack_of(error) or str(error), EXIT_SERVER)
    log = Log(stderr)
    audit_log = None
    logging.getLogger().addHandler(LibraryLog(log))
    inherited.tell(log)
    try:
        role_oid(Role.ADMIN, config.arc)
        try:
            audit_log = None if audit is None else Audit(audit, log, required=audit_required)
        except OSError as error:
            return _fail(_unwritable("--audit", audit or "", error), EXIT_SERVER)
        trio.run(Server(config, log, Trail(audit_log), Notifier.from_environment()).run)
    except Exception as error:
        match cause := only(error):
            case CertsError():
                return _fail(str(cause).replace("--certs", certs_flag), EXIT_CERTS)
            case CgroupError():
                return _fail(str(cause), EXIT_SERVER)
            case ListenError():
                return _fail(
                    f"cannot listen on {listen}: {cause}; --listen names another address.", EXIT_SERVER
                )
            case _ if lack := lack_of(cause):
                log.error("the server cannot go on", reason=lack, at=place_of(cause))  # noqa: TRY400  # no bug
                return _fail(lack, EXIT_SERVER)
            case _:  # a bug; its traceback is for the log, not for the terminal
                log.exception("the server failed")
                return _fail("the server failed; its log says how.", EXIT_SERVER)
    finally:
        if audit_log is not None:
            audit_log.close()
        stderr.close()
    return 0


def _unwritable(source: str, path: str, error: OSError) -> str:
    """Why something cannot be written to: its own fault, or that of all."""
    from .lacks import lack_of
    from .threads import NoThreadError

    if error.errno in (errno.EMFILE, errno.ENFILE) or isinstance(error, NoThreadError):
        return lack_of(error) or str(error)
    return f"{source} {path!r} cannot be written to: {error.strerror}."


def _source(flag: str, variable: str, value: str) -> str:
    """What a value came from, so that nobody is blamed for a flag that was not given."""
    return variable if os.environ.get(variable) == value else flag


def _memory(flag: str, text: str) -> int:
    size = int(parse_bytes(flag, text))
    if size < LEAST_MEMORY:
        raise LimitError(f"{flag} {text} is too small; the least is 1M.")
    return size


def _fail(sentence: str, code: int) -> int:
    sys.stderr.write(f"worker-service: {sentence}\n")
    return code
