"""Owns the flags that commands share, which say which server and who we are, and the types of others."""

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from certs.contexts import default_directory
from certs.exposure import exposures
from certs.refusals import refusal
from wire.durations import parse_seconds

from ..blocking import Client, connect
from ..endpoint import DEFAULT_IDENTITY, DEFAULT_SERVER, Endpoint
from ..errors import AddressError, ClientError
from ..resume import DEFAULT_PATIENCE
from . import peer_names, streams
from .exits import UsageError

PATTERN = "worker-service {} [flags] -- COMMAND [ARGUMENT...]"
Flag = Annotated[bool, Parameter(negative="", show_default=False)]
Duration = Annotated[str | None, Parameter(metavar="TIME")]
Interval = Annotated[str, Parameter(metavar="TIME")]
JobId = Annotated[str, Parameter(metavar="JOB")]
Words = Annotated[str, Parameter(show=False)]
#: What `--interval` may be, in seconds.
SHORTEST_INTERVAL, LONGEST_INTERVAL = 0.1, 3600.0
_CONNECTION = Group("Connection", sort_key=9)


@Parameter(name="*", group=_CONNECTION)
@dataclass(frozen=True)
class Where:
    """Which server, and who we are.

    Parameters
    ----------
    server:
        HOST:PORT, or wss://HOST:PORT for WebSocket.
    certs:
        Directory with ca.crt and the identity's certificate and key
        [default: worker-service/certs in ~/.config or $XDG_CONFIG_HOME].
    identity:
        The stem of the certificate's file name in that directory.
    patience:
        How long to try to come back after the connection was cut: 90s, 5m; 0 for not at all.
    """

    server: Annotated[str, Parameter(env_var="WORKER_SERVICE_SERVER", metavar="ADDRESS")] = DEFAULT_SERVER
    certs: Annotated[str, Parameter(env_var="WORKER_SERVICE_CERTS", metavar="DIR", show_default=False)] = ""
    identity: Annotated[str, Parameter(env_var="WORKER_SERVICE_IDENTITY", metavar="NAME")] = DEFAULT_IDENTITY
    patience: Annotated[str, Parameter(env_var="WORKER_SERVICE_PATIENCE", metavar="TIME")] = (
        f"{DEFAULT_PATIENCE:g}"
    )

    def connect(self, *, quiet: bool = False) -> Client:
        """Connect to the server; empty settings count as unset.

        Args:
            quiet: say nothing of keys that others can read, as it was said before.
        """
        certs = Path(self.certs) if self.certs else default_directory()
        identity = self.identity or DEFAULT_IDENTITY
        flag = source("--patience", "WORKER_SERVICE_PATIENCE", self.patience)
        patience = parse_seconds(flag, self.patience or f"{DEFAULT_PATIENCE:g}")
        try:
            client = connect(self.server or DEFAULT_SERVER, certs=certs, identity=identity, patience=patience)
        except ClientError as error:
            sentence = self._explained(error, certs, identity)
            error.args = (self._blamed(sentence), *error.args[1:])
            raise
        for sentence in () if quiet else exposures(certs, f"{identity}.key"):
            streams.complain(f"note: {sentence}")
        return client

    def _explained(self, error: ClientError, certs: Path, identity: str) -> str:
        """The sentence for an error, with the names of the server's certificate if those are at fault."""
        if isinstance(error, AddressError):
            return f"--server {error}"
        if not isinstance(error.__cause__, ssl.SSLError) or not peer_names.lacks_name(error.__cause__):
            return str(error)
        endpoint = Endpoint.parse(self.server or DEFAULT_SERVER)
        names = peer_names.names_of(endpoint, certs, identity)
        sentence = refusal(error.__cause__, identity=identity, server=str(endpoint), names=names)
        return sentence[:1].upper() + sentence[1:]

    def _blamed(self, sentence: str) -> str:
        """A sentence with the variables in place of the flags that were not given."""
        for name, value in (("server", self.server), ("certs", self.certs), ("identity", self.identity)):
            flag = f"--{name}"
            sentence = sentence.replace(flag, source(flag, f"WORKER_SERVICE_{name.upper()}", value))
        return sentence


def source(flag: str, variable: str, value: str) -> str:
    """What a value came from, so that nobody is blamed for a flag that was not given."""
    return variable if value and os.environ.get(variable) == value else flag


def seconds(flag: str, text: str | None) -> float | None:
    """Read a length of time that may be left out."""
    return None if text is None else parse_seconds(flag, text)


def interval(text: str) -> float:
    """Read the time between two readings; a UsageError if it is no sane one."""
    found = parse_seconds("--interval", text)
    if not SHORTEST_INTERVAL <= found <= LONGEST_INTERVAL:
        raise UsageError(
            f"--interval {text} must be from {SHORTEST_INTERVAL:g} to {LONGEST_INTERVAL:g} seconds."
        )
    return found
