"""Owns the `certs` commands for certificates that exist: renew, revoke, show, export."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from certs.errors import CertsError
from certs.flags import Arc, Directory, Flag, folder, say


def renew(
    name: str, /, *, days: int | None = None, new_key: Flag = False, directory: Directory = None
) -> None:
    """Replace NAME.crt by one that is good for longer: same name, same role, same key, another serial number.

    Parameters
    ----------
    name:
        Whose certificate; `ca` is the authority's own, and what it has signed stays good.
    days:
        How long it is good [default: as long as the old one was].
    new_key:
        Make a new key too, which replaces NAME.key.
    """
    from certs import lifecycle

    say(lifecycle.renew(folder(directory), name, days=days, new_key=new_key))


def revoke(
    *names: str,
    serial: Annotated[list[str] | None, Parameter(negative="")] = None,
    days: int | None = None,
    directory: Directory = None,
) -> None:
    """Revoke certificates: write the authority's next list of them, ca.crl, which servers read.

    Parameters
    ----------
    names:
        Whose certificates: NAME for NAME.crt and those that it has replaced, or paths. With none, the list is
        written anew, with new dates.
    serial:
        A serial number to revoke, as `certs show` prints it; repeatable.
    days:
        After how many days the list must have been written anew, or servers accept nobody [default: it
        lasts as long as the authority].
    """
    from certs.revoke import revoke as write
    from certs.roles import serial_text

    done = write(folder(directory), names, serials=serial or (), days=days)
    for number in done.added:
        sys.stdout.write(f"revoked {serial_text(number)}\n")
    held = f"{done.count} certificate{'s' * (done.count != 1)}"
    sys.stdout.write(f"{done.path}\n  list {done.number} of {held}, good until {done.ends:%Y-%m-%d}\n")


def show(
    file: str | None = None,
    /,
    *,
    json_: Annotated[bool, Parameter(name="--json", negative="", show_default=False)] = False,
    directory: Directory = None,
    arc: Arc = None,
) -> int:
    """Say whose certificates these are, what they are for, and how long they are good.

    Parameters
    ----------
    file:
        A file with certificates or lists of revoked ones [default: all of the directory].
    json_:
        One JSON object a line instead.
    """
    import dataclasses
    import datetime
    import json

    from certs import roles
    from certs import show as shows

    code = 0
    now = datetime.datetime.now(datetime.UTC)
    for path in shows.files(folder(directory)) if file is None else [Path(file)]:
        try:
            for shown in shows.show(path, now, roles.DEFAULT_ARC if arc is None else arc):
                if json_:
                    # RFC 3339, as in the other commands' JSON.
                    text = json.dumps(
                        dataclasses.asdict(shown), default=lambda time: f"{time:%Y-%m-%dT%H:%M:%SZ}"
                    )
                    sys.stdout.write(text + "\n")
                else:
                    sys.stdout.write(shows.words(shown))
        except CertsError as error:
            if file is not None:
                raise
            sys.stderr.write(f"worker-service: {error}\n")  # and on to the next
            code = 6
    return code


def export(name: str, /, *, p12: str, directory: Directory = None, force: Flag = False) -> None:
    """Write a certificate, its key and the authority into one file under a password, for browsers.

    The password is WORKER_SERVICE_P12_PASSWORD, if that is set; otherwise it is asked for on the terminal, or
    is the first line of standard input.

    Parameters
    ----------
    name:
        Whose certificate: NAME.crt and NAME.key.
    p12:
        The file to make, in PKCS #12.
    force:
        Replace a file that exists.
    """
    from certs.bundle import export as write

    write(folder(directory), name, Path(p12), _password(), force=force)
    sys.stdout.write(f"{p12}\n")


def _password() -> str:
    import getpass
    import os

    password = os.environ.get("WORKER_SERVICE_P12_PASSWORD")
    if password is not None:
        return password
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    password = getpass.getpass("Password for the file: ")
    if getpass.getpass("Again: ") != password:
        raise CertsError("the two passwords differ: nothing was written.")
    return password
