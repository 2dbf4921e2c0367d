"""Owns the situations in which the command line does not get as far as a server of ours that lets it in."""

import datetime
import socket
from pathlib import Path

from certs.authority import issue
from certs.roles import Role
from tests.cli.place import Place, Situations
from tests.cli.program import Result
from tests.client.tls_peer import old_peer_context, peer
from tests.tlshelp import authority, key, save
from wire.connection import Connection
from wire.connection import Role as End
from wire.messages import Hello

LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
HELLO = Connection(End.SERVER).send(Hello(1, "other", "admin", "Admin", max_frame=2**22, max_requests=4))
situation = Situations()


@situation("nobody listens")
def _(place: Place) -> Result:
    return place.elsewhere("127.0.0.1:1")


@situation("nobody listens, to run something")
def _(place: Place) -> Result:
    return place.elsewhere("127.0.0.1:1", "run", "--", "true")


@situation("no such host")
def _(place: Place) -> Result:
    return place.elsewhere("..a:8443")


@situation("no port")
def _(place: Place) -> Result:
    return place.elsewhere("localhost")


@situation("no host")
def _(place: Place) -> Result:
    return place.elsewhere(":8443")


@situation("half a bracket")
def _(place: Place) -> Result:
    return place.elsewhere("[::1")


@situation("no certificates, and the server is here")
def _(place: Place) -> Result:
    return place.ask("list", certs=Path("/nonexistent"))


@situation("no certificates, and the server is far")
def _(place: Place) -> Result:
    return place.elsewhere("192.0.2.7:8443", certs=Path("/nonexistent"))


@situation("no certificate of that identity")
def _(place: Place) -> Result:
    return place.ask("list", identity="ada")


@situation("a bad address in a variable")
def _(place: Place) -> Result:
    return place.cli.having(WORKER_SERVICE_SERVER="build7")("list")


@situation("a bad time in a variable")
def _(place: Place) -> Result:
    return place.cli.having(WORKER_SERVICE_PATIENCE="long")("list")


@situation("a directory without certificates in a variable")
def _(place: Place) -> Result:
    return place.cli.having(WORKER_SERVICE_CERTS="/nonexistent")("list")


@situation("a key that others can read")
def _(place: Place) -> Result:
    certs = place.directory("exposed")
    (certs / "admin.key").chmod(0o644)
    return place.ask("list", certs=certs)


@situation("a key of another certificate")
def _(place: Place) -> Result:
    certs = place.directory("mixed")
    (certs / "admin.key").write_bytes((certs / "user.key").read_bytes())
    return place.ask("list", certs=certs)


@situation("a certificate that is none")
def _(place: Place) -> Result:
    certs = place.directory("garbled")
    (certs / "admin.crt").write_text("nothing")
    return place.ask("list", certs=certs)


@situation("a certificate of a foreign authority")
def _(place: Place) -> Result:
    certs = place.directory("foreign")
    save(certs, admin=issue(authority("another CA"), "admin", role=Role.ADMIN, key=key("admin")))
    return place.ask("list", certs=certs)


@situation("a certificate that has expired")
def _(place: Place) -> Result:
    certs = place.directory("expired")
    save(certs, admin=issue(authority(), "admin", role=Role.ADMIN, key=key("admin"), not_before=LONG_AGO))
    return place.ask("list", certs=certs)


@situation("a certificate without a role")
def _(place: Place) -> Result:
    certs = place.directory("roleless")
    save(certs, admin=issue(authority(), "admin", key=key("admin")))
    return place.ask("list", certs=certs)


@situation("a server's certificate as a client's")
def _(place: Place) -> Result:
    return place.ask("list", identity="server")


@situation("a server of a foreign authority")
def _(place: Place) -> Result:
    certs = place.directory("distrust")
    save(certs, ca=authority("another CA"))
    return place.ask("list", certs=certs)


@situation("a server whose certificate lacks the name")
def _(place: Place) -> Result:
    certs = place.directory("misnamed")
    names = ["build7", "::1"]
    save(certs, server=issue(authority(), "server", purpose="server", san=names, key=key("server")))
    with peer(lambda tls: None, certs) as first:
        return place.elsewhere(first)  # it answers once, so the names are not learnt


@situation("a server whose certificate has expired")
def _(place: Place) -> Result:
    certs = place.directory("late")
    names = ["127.0.0.1"]
    late = issue(authority(), "server", purpose="server", san=names, key=key("server"), not_before=LONG_AGO)
    save(certs, server=late)
    with peer(lambda tls: None, certs) as address:
        return place.elsewhere(address)


@situation("what answers does not speak TLS")
def _(place: Place) -> Result:
    with peer(lambda tcp: tcp.sendall(b"220 mail.example.org ESMTP\r\n")) as address:
        return place.elsewhere(address)


@situation("what answers speaks TLS 1.2")
def _(place: Place) -> Result:
    def script(tcp: socket.socket) -> None:
        old_peer_context(place.server.certs).wrap_socket(tcp, server_side=True).close()

    with peer(script) as address:
        return place.elsewhere(address)


@situation("what answers hangs up")
def _(place: Place) -> Result:
    def script(tcp: socket.socket) -> None:
        tcp.recv(1000)

    with peer(script) as address:
        return place.elsewhere(address)


@situation("what answers speaks another protocol")
def _(place: Place) -> Result:
    with peer(lambda tls: tls.sendall(b"\0\0\0\x04nope"), place.server.certs) as address:
        return place.elsewhere(address)


@situation("what answers speaks HTTP")
def _(place: Place) -> Result:
    answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    with peer(lambda tls: tls.sendall(answer), place.server.certs, alpn="http/1.1") as address:
        return place.elsewhere(f"wss://{address}")


@situation("a connection that is cut")
def _(place: Place) -> Result:
    def script(tls: socket.socket) -> None:
        tls.sendall(HELLO)
        tls.recv(1000)

    with peer(script, place.server.certs) as address:
        return place.elsewhere(address)


@situation("a connection that is cut, of run")
def _(place: Place) -> Result:
    def script(tls: socket.socket) -> None:
        tls.sendall(HELLO)
        tls.recv(1000)

    with peer(script, place.server.certs) as address:
        return place.elsewhere(address, "run", "--", "true")
