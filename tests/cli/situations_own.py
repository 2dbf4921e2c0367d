"""Owns the situations in which `certs` and `serve` complain, and last, those of a server that ends."""

import signal

from tests.cli.place import Place, Situations
from tests.cli.program import Result, finish, read_until
from tests.cli.situations_jobs import WAITS

situation = Situations()


@situation("a name for a certificate that is none")
def _(place: Place) -> Result:
    return place.cli("certs", "issue", "a/b", "--role", "user", "--dir", str(place.server.certs))


@situation("a host name that is none")
def _(place: Place) -> Result:
    return place.cli("certs", "init", "--san", "host:1", "--dir", str(place.folder / "new"))


@situation("an authority in the place of another")
def _(place: Place) -> Result:
    return place.cli("certs", "init", "--dir", str(place.server.certs))


@situation("a certificate in the place of another")
def _(place: Place) -> Result:
    return place.cli("certs", "issue", "user", "--role", "user", "--dir", str(place.server.certs))


@situation("no authority to issue")
def _(place: Place) -> Result:
    return place.cli("certs", "issue", "ada", "--role", "user", "--dir", str(place.folder))


@situation("no request to sign")
def _(place: Place) -> Result:
    return place.cli("certs", "sign", "/nonexistent", "--role", "user", "--dir", str(place.server.certs))


@situation("no certificate to renew")
def _(place: Place) -> Result:
    return place.cli("certs", "renew", "ada", "--dir", str(place.server.certs))


@situation("no certificate to show")
def _(place: Place) -> Result:
    return place.cli("certs", "show", "/nonexistent")


@situation("a server whose port is taken")
def _(place: Place) -> Result:
    return place.cli("serve", "--listen", place.server.address, "--certs", str(place.server.certs))


@situation("a server without certificates")
def _(place: Place) -> Result:
    return place.cli("serve", "--listen", "127.0.0.1:0", "--certs", "/nonexistent")


@situation("a server whose folder for output is none")
def _(place: Place) -> Result:
    return place.cli("serve", "--certs", str(place.server.certs), "--spill-dir", "/nonexistent")


@situation("a server whose user for jobs is none")
def _(place: Place) -> Result:
    return place.cli("serve", "--certs", str(place.server.certs), "--job-user", "no-such-user")


@situation("a server that ends")
def _(place: Place) -> Result:
    """The last of all."""
    with place.begin("run", "--", *WAITS) as running:
        read_until(running, b"ready\n")
        place.server.process.send_signal(signal.SIGTERM)
        return finish(running)


@situation("a server that has ended")
def _(place: Place) -> Result:
    place.server.end()
    return place.elsewhere(place.server.address)
