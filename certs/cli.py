"""Owns the `certs` commands of the command line; mounting them imports no cryptography."""

import sys
from pathlib import Path

from cyclopts import App

from certs.flags import Directory, Flag, Hosts, RoleName, folder, hosts, own_names, say

app = App(name="certs", help="Make certificates, and keep them good: issue, sign, renew, revoke, show.")
for _name in ("renew", "revoke", "show", "export"):
    app.command(f"certs.keeping:{_name}", name=_name)


@app.command
def init(
    *,
    directory: Directory = None,
    san: Hosts = None,
    force: Flag = False,
    arc: str | None = None,
) -> None:
    """Make an authority, and certificates for a server, an Admin and a User.

    Parameters
    ----------
    san:
        A host name or IP address of the server, or several with commas; repeatable [default: localhost,
        127.0.0.1, ::1 and this machine's name].
    force:
        Replace files that exist; certificates of the old authority are then worth nothing.
    arc:
        The object identifier below which roles are numbered [default: 1.3.6.1.4.1.12345.1].
    """
    from certs import authority, roles

    made = authority.init(
        folder(directory),
        san=hosts(san) or own_names(),
        force=force,
        arc=roles.DEFAULT_ARC if arc is None else arc,
    )
    sys.stdout.writelines(f"{path}\n" for path in made)


@app.command
def issue(
    name: str,
    /,
    *,
    role: RoleName,
    days: int | None = None,
    san: Hosts = None,
    directory: Directory = None,
    force: Flag = False,
    arc: str | None = None,
) -> None:
    """Make a key and a certificate, as NAME.key and NAME.crt beside the authority's.

    Parameters
    ----------
    name:
        Whose certificate; for a client, what the server calls it in its log and in jobs.
    role:
        What it is for: a client that is Admin or User, or a server.
    days:
        How long it is good [default: 45 for a client, 365 for a server].
    san:
        With --role server, its host names and IP addresses, as in `certs init`.
    force:
        Replace files that exist. The old certificate stays good until it ends or is revoked.
    arc:
        The object identifier below which roles are numbered [default: 1.3.6.1.4.1.12345.1].
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

    sys.stdout.write(f"{lifecycle.request(folder(directory), name, force=force)}\n")


@app.command
def sign(
    request: str,
    /,
    *,
    role: RoleName,
    name: str | None = None,
    days: int | None = None,
    san: Hosts = None,
    directory: Directory = None,
    force: Flag = False,
    arc: str | None = None,
) -> None:
    """Make a certificate from a request, so that the key never travels: NAME.crt beside the authority's.

    Parameters
    ----------
    request:
        The request, a file with PKCS #10 in PEM. Its key and its common name are taken, and nothing else
        that it asks for, but for a server's host names where --san gives none.
    role:
        What it is for: a client that is Admin or User, or a server.
    name:
        The common name, instead of the request's.
    days:
        How long it is good [default: 45 for a client, 365 for a server].
    san:
        With --role server, its host names and IP addresses, as in `certs init`.
    force:
        Replace a file that exists.
    arc:
        The object identifier below which roles are numbered [default: 1.3.6.1.4.1.12345.1].
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
