"""What a client reads when its job could not be started."""

import errno

import pytest

from wire.errors import ErrorCode
from wire.messages import Failure, encode_message
from worker.ceilings import LimitRefusedError
from worker.child import ProcessSpec, SpawnError
from worker.failures import explain_start

SPEC = ProcessSpec((b"prog",), {}, b"/dir", merge=False)
PATH = ProcessSpec((b"./prog\xff",), {}, b"/dir", merge=False)


@pytest.mark.parametrize(
    ("spec", "error", "code", "words"),
    [
        (SPEC, SpawnError("exec", errno.ENOENT), ErrorCode.NO_SUCH_PROGRAM, "'prog'.*PATH"),
        (PATH, SpawnError("exec", errno.ENOENT), ErrorCode.NO_SUCH_PROGRAM, "check the path"),
        (PATH, SpawnError("exec", errno.ENOTDIR), ErrorCode.NO_SUCH_PROGRAM, "check the path"),
        (PATH, SpawnError("interpreter", errno.ENOENT), ErrorCode.NOT_EXECUTABLE, "its #! line names"),
        (SPEC, SpawnError("exec", errno.EACCES), ErrorCode.NOT_EXECUTABLE, "Permission denied"),
        (SPEC, SpawnError("exec", errno.EPERM), ErrorCode.NOT_EXECUTABLE, "not permitted"),
        (SPEC, SpawnError("exec", errno.ENOEXEC), ErrorCode.NOT_EXECUTABLE, "#! line"),
        (SPEC, SpawnError("exec", errno.E2BIG), ErrorCode.BAD_REQUEST, "too large"),
        (SPEC, SpawnError("exec", errno.EIO), ErrorCode.START_FAILED, "exec: Input/output error"),
        (SPEC, SpawnError("cwd", errno.ENOENT), ErrorCode.BAD_DIRECTORY, "'/dir'.*No such file"),
        (SPEC, SpawnError("cwd", errno.EACCES), ErrorCode.BAD_DIRECTORY, "Permission denied"),
        (SPEC, SpawnError("fork", errno.EAGAIN), ErrorCode.START_FAILED, "fork: Resource temporarily"),
        (SPEC, SpawnError("cgroup", errno.ENODEV), ErrorCode.START_FAILED, "cgroup: No such device"),
        (SPEC, SpawnError("setup", 0), ErrorCode.START_FAILED, "server's log"),
        (SPEC, SpawnError("lost", 0), ErrorCode.START_FAILED, "try again"),
        (SPEC, SpawnError("timeout", errno.ETIMEDOUT), ErrorCode.START_FAILED, "in time"),
        (
            SPEC,
            LimitRefusedError("The pids limit ...: boot", "pids"),
            ErrorCode.LIMIT_REFUSED,
            "pids limit .*boot",
        ),
        (SPEC, OSError(errno.EMFILE, "Too many open files"), ErrorCode.START_FAILED, "Too many open files"),
    ],
)
def test_explain_start(
    spec: ProcessSpec, error: SpawnError | LimitRefusedError | OSError, code: ErrorCode, words: str
) -> None:
    found = explain_start(spec, error)
    assert found.code is code
    with pytest.raises(type(found), match=words):
        raise found
    encode_message(Failure.of(1, found))
    assert found.limit == ("pids" if code is ErrorCode.LIMIT_REFUSED else None)


@pytest.mark.parametrize("step", ["exec", "cwd"])
@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENAMETOOLONG])
def test_a_sentence_stays_one_whatever_was_asked_for(step: str, number: int) -> None:
    odd = b"/" + b"\xff" * 1_000_000
    found = explain_start(ProcessSpec((odd,), {}, odd, merge=False), SpawnError(step, number))
    assert len(found.message) < 500
    assert found.message.endswith(".")
