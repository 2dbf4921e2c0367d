"""Owns what the `certs` commands have in common: their flags, and what they say of what they made."""

import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from certs.contexts import default_directory
from certs.errors import CertsError
from certs.exposure import exposures

if TYPE_CHECKING:
    from certs.lifecycle import Made

#: The directory in question; help text and default are the same in every command.
Directory = Annotated[
    str | None,
    Parameter(
        name="--dir",
        env_var="WORKER_SERVICE_CERTS",
        help="Where the files are [default: worker-service/certs in ~/.config or $XDG_CONFIG_HOME].",
    ),
]
Flag = Annotated[bool, Parameter(negative="", show_default=False)]
Hosts = Annotated[
    list[str] | None,
    Parameter(
        name="--san",
        negative="",
        help="A host name or IP address of a server, or several with commas; repeatable [default for a key "
        "made here: localhost, 127.0.0.1, ::1 and this machine's name].",
    ),
]
Arc = Annotated[
    str | None,
    Parameter(help="The object identifier below which roles are numbered [default: 1.3.6.1.4.1.12345.1]."),
]
Days = Annotated[
    int | None, Parameter(help="How long it is good [default: 45 for a client, 365 for a server].")
]
RoleName = Annotated[
    Literal["admin", "user", "server"],
    Parameter(help="What it is for: a client that is Admin or User, or a server."),
]


def folder(text: str | None) -> Path:
    """The directory that was named, or the default one."""
    return Path(text) if text else default_directory()  # set but empty is as good as not set


def hosts(san: list[str] | None) -> list[str]:
    """Host names, of which each word may hold several with commas."""
    return [name.strip() for item in san or () for name in item.split(",")]


def say(made: "Made") -> None:
    """Print what was made."""
    import datetime

    from certs import show

    warn(made.path.parent, "ca.key")
    shown = next(show.show(made.path, datetime.datetime.now(datetime.UTC)))
    sys.stdout.write(show.words(shown))
    sys.stdout.writelines(f"  note:     {note}\n" for note in made.notes)


def warn(directory: Path, *keys: str) -> None:
    """Say on stderr if other users of this host can get at keys that are in a directory now."""
    for sentence in exposures(directory, *keys):
        sys.stderr.write(f"worker-service: note: {sentence}\n")


def own_names() -> list[str]:
    """What a server on this machine is called."""
    from certs.names import alternative_names

    names = ["localhost", "127.0.0.1", "::1"]
    hostname = socket.gethostname()
    try:
        alternative_names([hostname])
    except CertsError:  # the kernel takes any text for a host name
        return names
    return [*names, hostname]
