"""Owns the `certs` commands of the command line; mounting them imports no cryptography."""

import socket
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from certs.contexts import default_directory
from certs.errors import CertsError

app = App(name="certs", help="Make the certificates of a server and its clients.")


@app.command
def init(
    *,
    directory: Annotated[str | None, Parameter(name="--dir", env_var="WORKER_SERVICE_CERTS")] = None,
    san: Annotated[list[str] | None, Parameter(negative="")] = None,
    force: Annotated[bool, Parameter(negative="")] = False,
    arc: str | None = None,
) -> None:
    """Make an authority, and certificates for a server, an Admin and a User.

    Parameters
    ----------
    directory:
        Where the files go [default: worker-service/certs in ~/.config or $XDG_CONFIG_HOME].
    san:
        A host name or IP address of the server, or several with commas; repeatable [default: localhost,
        127.0.0.1, ::1 and this machine's name].
    force:
        Replace files that exist; certificates of the old authority are then worth nothing.
    arc:
        The object identifier below which roles are numbered [default: 1.3.6.1.4.1.12345.1].
    """
    from certs import authority, roles

    names = [name.strip() for item in san for name in item.split(",")] if san else _own_names()
    made = authority.init(
        Path(directory) if directory else default_directory(),  # set but empty is as good as not set
        san=names,
        force=force,
        arc=roles.DEFAULT_ARC if arc is None else arc,
    )
    sys.stdout.writelines(f"{path}\n" for path in made)


def _own_names() -> list[str]:
    from certs.names import alternative_names

    names = ["localhost", "127.0.0.1", "::1"]
    hostname = socket.gethostname()
    try:
        alternative_names([hostname])
    except CertsError:  # the kernel takes any text for a host name
        return names
    return [*names, hostname]
