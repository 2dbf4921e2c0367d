"""Owns the matrix of authorisation: asks a real server for every method, as everybody, over every transport.

`python -m tests.matrix` prints it. MATRIX says what must come out, and holds every method: one that is added
without being entered here fails the tests.
"""

import contextlib
import ssl
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from certs.files import install
from certs.roles import Role
from client.blocking import Client
from client.endpoint import Endpoint
from client.errors import TlsError
from client.transport import connect
from tests.forged import REFUSED, Forged
from tests.harness import PATIENCE, Server, serve
from tests.tlshelp import make_directory
from wire.frames import FrameDecoder, encode_frame
from wire.messages import Failure, Hello, Message, Output, Reply, Request, decode_message, encode_message
from worker.methods import METHODS

#: Who may call what; whatever is not here may be called by nobody.
MATRIX: dict[str, set[Role]] = {
    "start": {Role.ADMIN},
    "stop": {Role.ADMIN},
    "query": {Role.ADMIN, Role.USER},
    "wait": {Role.ADMIN, Role.USER},
    "list": {Role.ADMIN, Role.USER},
    "stream": {Role.ADMIN, Role.USER},
    "remove": {Role.ADMIN},
}
UNKNOWN = "reboot"
TRANSPORTS = {"native": "", "WebSocket": "wss://"}
#: Who is let in, by the name of the files.
ADMITTED = {"admin": Role.ADMIN, "user": Role.USER}

ALLOWED, DENIED, UNKNOWN_METHOD = "allowed", "denied", "unknown_method"


def expected(role: Role | None, name: str) -> str:
    """What must come of a request; None is for those who have no role."""
    if role is None:
        return DENIED
    if name == UNKNOWN:
        return UNKNOWN_METHOD
    return ALLOWED if role in MATRIX[name] else DENIED


def methods() -> list[str]:
    """What is asked for: everything that the server has, and something that it has not."""
    return [*METHODS, UNKNOWN]


def save_forged(directory: Path, forged: Forged) -> None:
    """Write it as forged.crt and forged.key."""
    pem = ssl.DER_cert_to_PEM_cert(forged.der).encode()
    secret = forged.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    install(directory, {"forged.crt": pem, "forged.key": secret}, force=True)


@dataclass(frozen=True, slots=True)
class Answers:
    """What came of a request for each method; who was not let in was told why, by OpenSSL or by us."""

    outcomes: dict[str, str]
    refused_by: str | None = None
    sentence: str = ""


def ask(server: Server, admin: Client, certs: Path, identity: str, scheme: str) -> Answers:
    """Ask for every method at once, before anything is read; then look at what was done.

    Raises:
        AssertionError: something was said or done that goes beyond the answers.
    """
    kept, removed = (admin.wait(admin.start(["echo", "ended"]).id).id for _ in range(2))
    before = {job.id for job in admin.list()}
    names = dict(enumerate(methods(), 1))
    requests = b"".join(_frame(number, name, kept, removed) for number, name in names.items())
    refusal: tuple[str, str] | None = None
    try:
        answers = _exchange(Endpoint.parse(scheme + server.address), certs, identity, requests)
    except TlsError as error:
        answers, refusal = [], ("tls", str(error))
    else:
        if not any(isinstance(answer, Hello) for answer in answers):
            # One sentence, and nothing behind it.
            (failure,) = answers
            assert isinstance(failure, Failure)
            assert (failure.id, failure.code) == (0, DENIED)
            refusal = ("role", failure.message)
    after = {job.id for job in admin.list()}
    if refusal is not None:
        assert after == before
        return Answers(dict.fromkeys(names.values(), DENIED), *refusal)
    outcomes = {}
    for answer in answers:
        if isinstance(answer, Failure | Reply):
            outcomes[names[answer.id]] = ALLOWED if isinstance(answer, Reply) else str(answer.code)
    assert (removed in after) is (outcomes["remove"] != ALLOWED)
    assert bool(after - before) is (outcomes["start"] == ALLOWED)
    return Answers(outcomes)


def _frame(number: int, name: str, kept: str, removed: str) -> bytes:
    params: dict[str, Any] = {"id": removed if name == "remove" else kept}
    if name == "start":
        params = {"argv": ["true"]}
    elif name == "list":
        params = {}
    return encode_frame(encode_message(Request(number, name, params, credit=1000)))


def _exchange(endpoint: Endpoint, certs: Path, identity: str, requests: bytes) -> list[Message]:
    """Everything but output that the server says, up to the last answer or its end."""
    transport = connect(endpoint, certs, identity)
    found: list[Message] = []
    finals = len(methods())
    decoder = FrameDecoder()
    with contextlib.closing(transport):
        transport.send(requests)
        while finals:
            if (data := transport.receive()) is None:
                assert transport.wait(PATIENCE)
                continue
            if not data:
                break
            decoder.receive_data(data)
            while (payload := decoder.next_frame()) is not None:
                message = decode_message(payload)
                finals -= isinstance(message, Failure | Reply)
                if not isinstance(message, Output):
                    found.append(message)
    return found


def rows() -> Iterator[tuple[str, str, Answers]]:
    """Who, over which transport, and what came of it: a server of its own is asked."""
    with tempfile.TemporaryDirectory() as folder:
        certs = make_directory(Path(folder) / "certs")
        with serve(certs) as server, server.connect() as admin:
            for name in (*ADMITTED, *REFUSED):
                if name in REFUSED:
                    save_forged(certs, REFUSED[name][1]())
                for transport, scheme in TRANSPORTS.items():
                    identity = name if name in ADMITTED else "forged"
                    yield name, transport, ask(server, admin, certs, identity, scheme)


def main() -> None:
    """Print the matrix."""
    names = methods()
    print_row = "{:32} {:10}" + " {:8}" * len(names) + " {}"
    marks = {ALLOWED: "yes", DENIED: "-", UNKNOWN_METHOD: "unknown"}
    sys.stdout.write(print_row.format("certificate", "transport", *names, "refused by") + "\n")
    for who, transport, answers in rows():
        cells = [marks[answers.outcomes[name]] for name in names]
        by = f"{answers.refused_by}: {answers.sentence}" if answers.refused_by else ""
        sys.stdout.write(print_row.format(who, transport, *cells, by).rstrip() + "\n")


if __name__ == "__main__":
    main()
