"""Owns the `certs` commands of the command line; mounting them imports no cryptography."""

import sys
from pathlib import Path

from cyclopts import App

from certs.flags import Arc, Days, Directory, Flag, Hosts, RoleName, folder, hosts, own_names, say, warn

app = App(name="certs", help="Make certificates, and keep them good: issue, sign, renew, revoke, show.")
app.command("certs.keeping:renew", name="renew", help="Replace a certificate by one that is good for longer.")
app.command("certs.keeping:revoke", name="revoke", help="Write the next list of revoked certificates.")
app.command(
    "certs.keeping:show", name="show", help="Say whose certificates these are, and how long they are good."
)
app.command("certs.keeping:export", name="export", help="Put one with its key into one file, for browsers.")


@app.command
def init(
    *,
    directory: Directory = None,
    san: Hosts = None,
    force: Flag = False,
    arc: Arc = None,
) -> None:
    """Make an authority, and certificates for a server, an Admin and a User.

    Parameters
    ----------
    force:
        Replace files that exist; certificates of the old authority are then worth nothing.
    """
    from certs import authority, roles

    made = authority.init(
        folder(directory),
        san=hosts(san) or own_names(),
        force=force,
        arc=roles.DEFAULT_ARC if arc is None else arc,
    )
    warn(folder(directory))
    sys.stdout.writelines(f"{path}\n" for path in made)


@app.command
def issue(
    name: str,
    /,
    *,
    role: RoleName,
    days: Days = None,
    san: Hosts = None,
    directory: Directory = None,
    force: Flag = False,
    arc: Arc = None,
) -> None:
    """Make a key and a certificate, as NAME.key and NAME.crt beside the authority's.

    Parameters
    ----------
    name:
        Whose certificate; for a client, what the server calls it in its log and in jobs.
    force:
        Replace files that exist. The old certificate stays good until it ends or is revoked.
    """
    from certs import lifecycle, roles

    say(
        lifecycle.issue(
            folder(directory),
            name,
            role,
            san=hosts(san) or (own_names() if role == "server" else []),
            days=days,
            force=force,
            arc=roles.DEFAULT_ARC if arc is None else arc,
        )
    )


@app.command
def request(name: str, /, *, directory: Directory = None, force: Flag = False) -> None:
    """Make a key and a request, as NAME.key and NAME.csr, for `certs sign` where the authority is.

    Parameters
    ----------
    name:
        Whose certificate it shall be.
    force:
        Replace files that exist.
    """
    from certs import lifecycle

    made = lifecycle.request(folder(directory), name, force=force)
    warn(folder(directory))
    sys.stdout.write(f"{made}\n")


@app.command
def sign(
    request: str,
    /,
    *,
    role: RoleName,
    name: str | None = None,
    days: Days = None,
    san: Hosts = None,
    directory: Directory = None,
    force: Flag = False,
    arc: Arc = None,
) -> None:
    """Make a certificate from a request, so that the key never travels: NAME.crt beside the authority's.

    Parameters
    ----------
    request:
        The request, a file with PKCS #10 in PEM. Its key and its common name are taken, and nothing else
        that it asks for, but for a server's host names where --san gives none.
    name:
        The common name, instead of the request's.
    force:
        Replace a file that exists.
    """
    from certs import lifecycle, roles

    say(
        lifecycle.sign(
            folder(directory),
            Path(request),
            role,
            name=name,
            san=hosts(san),
            days=days,
            force=force,
            arc=roles.DEFAULT_ARC if arc is None else arc,
        )
    )
