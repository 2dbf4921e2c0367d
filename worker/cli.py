"""Owns the `serve` command; mounting it imports no Trio."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from certs.contexts import default_directory
from certs.errors import CertsError

#: Exit codes of `serve`, as PROTOCOL-independent commands share them (README, "Exit codes").
EXIT_CERTS, EXIT_SERVER = 6, 7

app = App(name="serve", help="Run the server: jobs for remote clients, each in its own cgroup.")


@app.default
def serve(
    *,
    listen: Annotated[str, Parameter(env_var="WORKER_SERVICE_LISTEN")] = "127.0.0.1:8443",
    certs: Annotated[Path | None, Parameter(env_var="WORKER_SERVICE_CERTS")] = None,
    arc: str | None = None,
    grace: float = 10.0,
    cgroup_parent: str | None = None,
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
        Seconds between TERM and KILL when a job is stopped, where the request names none.
    cgroup_parent:
        The cgroup below which jobs get theirs, as a path from the hierarchy's root; made if it is missing
        [default: the server's own cgroup; for root without delegation, the root].
    """
    import trio

    from certs.roles import DEFAULT_ARC, Role, role_oid

    from .hierarchy import CgroupError
    from .log import BackgroundStream, Log
    from .server import Config, Server

    host, colon, port = listen.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        return _fail(f"--listen {listen!r} is not HOST:PORT, such as 127.0.0.1:8443.", 2)
    if not 0 <= grace <= 86400:
        return _fail(f"--grace {grace:g} must be a number of seconds from 0 to 86400.", 2)
    config = Config(
        host.strip("[]"), int(port), certs or default_directory(), arc or DEFAULT_ARC, grace, cgroup_parent
    )
    stderr = BackgroundStream(sys.stderr)
    log = Log(stderr)
    try:
        role_oid(Role.ADMIN, config.arc)
        trio.run(Server(config, log).run)
    except CertsError as error:
        return _fail(str(error), EXIT_CERTS)
    except CgroupError as error:
        return _fail(str(error), EXIT_SERVER)
    except OSError as error:
        return _fail(f"cannot listen on {listen}: {error.strerror or error}.", EXIT_SERVER)
    except Exception:  # a bug; its traceback is for the log, not for the terminal
        log.exception("the server failed")
        return _fail("the server failed; its log says how.", EXIT_SERVER)
    finally:
        stderr.close()
    return 0


def _fail(sentence: str, code: int) -> int:
    sys.stderr.write(f"worker-service: {sentence}\n")
    return code
