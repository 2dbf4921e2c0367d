"""Who may ask for what, as a real server answers: certificate by method by transport (BEHAVIOURS 19)."""

from pathlib import Path

import pytest

from client.blocking import Client
from tests.forged import REFUSED
from tests.harness import Server
from tests.matrix import ADMITTED, DENIED, MATRIX, TRANSPORTS, ask, expected, methods, save_forged
from tests.tlshelp import make_directory
from worker.methods import METHODS

over_each = pytest.mark.parametrize("scheme", TRANSPORTS.values(), ids=list(TRANSPORTS))


def test_every_method_has_its_row() -> None:
    assert METHODS.keys() == MATRIX.keys()


@over_each
@pytest.mark.parametrize("identity", ADMITTED)
def test_a_role_gets_what_the_matrix_says(
    server: Server, admin: Client, shared_certificates: Path, identity: str, scheme: str
) -> None:
    answers = ask(server, admin, shared_certificates, identity, scheme)
    assert answers.outcomes == {name: expected(ADMITTED[identity], name) for name in methods()}


@over_each
@pytest.mark.parametrize("forged", REFUSED)
def test_any_other_certificate_gets_nothing_and_a_reason(
    server: Server, admin: Client, tmp_path: Path, forged: str, scheme: str
) -> None:
    refused_by, build = REFUSED[forged]
    save_forged(make_directory(tmp_path), build())
    answers = ask(server, admin, tmp_path, "forged", scheme)
    assert answers.outcomes == dict.fromkeys(methods(), DENIED)
    assert answers.refused_by == refused_by
    assert answers.sentence.endswith(".")
    assert "\n" not in answers.sentence
