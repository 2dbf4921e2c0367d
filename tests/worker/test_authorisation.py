"""Who may ask for what, by the one gate: a new method or role must be added to tests/matrix.py."""

import pytest

from certs.roles import Role
from tests.matrix import MATRIX
from wire.errors import ErrorCode, RequestError
from wire.messages import Request
from worker.methods import METHODS, authorise, prepare


def test_the_matrix_is_complete() -> None:
    assert METHODS.keys() == MATRIX.keys()
    assert set(Role) == {Role.ADMIN, Role.USER}


@pytest.mark.parametrize("name", MATRIX)
@pytest.mark.parametrize("role", Role)
def test_a_role_may_call_what_the_matrix_says(role: Role, name: str) -> None:
    if role in MATRIX[name]:
        assert authorise(role, name) is METHODS[name]
    else:
        with pytest.raises(RequestError) as caught:
            authorise(role, name)
        assert caught.value.code is ErrorCode.DENIED
        assert f"role {role.value} may not {name}" in caught.value.message


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("name", ["", "Start", "start ", "__init__", "run", "x" * 10_000])
def test_what_is_not_in_the_table_does_not_exist(role: Role, name: str) -> None:
    with pytest.raises(RequestError) as caught:
        authorise(role, name)
    assert caught.value.code is ErrorCode.UNKNOWN_METHOD
    assert len(caught.value.message) < 100


def test_a_denial_comes_before_any_look_at_the_parameters() -> None:
    with pytest.raises(RequestError) as caught:
        prepare(Role.USER, Request(1, "start", {"argv": "nonsense"}))
    assert caught.value.code is ErrorCode.DENIED


@pytest.mark.parametrize(
    ("name", "params", "sentence"),
    [
        ("start", {}, "start: argv is missing."),
        ("start", {"argv": "ls"}, "start: argv: must be an array."),
        ("start", {"argv": [1]}, "start: argv: must be binary or text."),
        ("start", {"argv": ["ls"], "merge": 1}, "start: merge: must be true or false."),
        ("query", {}, "query: id is missing."),
        ("query", {"id": 5}, "query: id: must be text."),
        (
            "stream",
            {"id": "a", "tail_lines": -1},
            "stream: tail_lines: must be a whole number from 0 to 2^63 - 1.",
        ),
        ("stream", {"id": "a", "offset": -1}, "stream: offset: must be a whole number from 0 to 2^63 - 1."),
    ],
)
def test_bad_parameters_are_named(name: str, params: dict[str, object], sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        prepare(Role.ADMIN, Request(1, name, params))
    assert caught.value.code is ErrorCode.BAD_REQUEST
    assert caught.value.message == sentence
