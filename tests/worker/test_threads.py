"""Threads run out, for real: no bare RuntimeError comes of it, and nothing but one module starts them."""

import ast
import errno
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

import worker
from tests.worker.common import KeptLog, descriptors, without_threads
from wire.errors import ErrorCode, RequestError
from worker import carry_on as carry_on_module
from worker.accept import open_listeners
from worker.audit import Audit
from worker.carry_on import carry_on
from worker.lacks import lack_of
from worker.log import BackgroundStream, Log, Stderr
from worker.threads import NoThreadError, may_need_threads, run_in_thread, start_thread
from worker.users import Users

#: What starts a thread, and what does so within Trio: that is for `may_need_threads` to stand around.
STARTERS = {
    "to_thread", "start_thread_soon", "Thread", "Timer", "ThreadPoolExecutor", "start_new_thread",
    "open_file", "wrap_file", "run_process",
}  # fmt: skip
GUARDED = {"open_process", "open_tcp_listeners", "open_tcp_stream", "getaddrinfo", "getnameinfo"}


def unguarded(node: ast.AST) -> Iterator[str]:
    """The names in a piece of a program that start threads, but for those within `may_need_threads`."""
    guards = isinstance(node, ast.With) and "may_need_threads" in {
        name.id for item in node.items for name in ast.walk(item) if isinstance(name, ast.Name)
    }
    if isinstance(node, ast.Attribute | ast.Name):
        name = node.attr if isinstance(node, ast.Attribute) else node.id
        if name in STARTERS | GUARDED:
            yield name
    for child in ast.iter_child_nodes(node):
        yield from (name for name in unguarded(child) if not (guards and name in GUARDED))


def test_one_module_starts_threads() -> None:
    (folder,) = worker.__path__
    texts = {path.name: path.read_text() for path in Path(folder).glob("*.py")}
    found = {name: sorted(set(unguarded(ast.parse(text)))) for name, text in texts.items()}
    # A type's name starts nothing.
    assert found.pop("threads.py") == ["Thread", "to_thread"]
    assert {name: names for name, names in found.items() if names and names != ["Thread"]} == {}
    assert [name for name in found if "Thread(" in texts[name]] == []


async def test_no_thread_is_an_error_of_the_host() -> None:
    limiter = trio.CapacityLimiter(1)
    with without_threads():
        for _ in range(3):
            with pytest.raises(NoThreadError) as caught:
                await run_in_thread(list, limiter=limiter)
            assert caught.value.errno == errno.EAGAIN
        with pytest.raises(NoThreadError):
            start_thread(list, "own")
    assert await run_in_thread(list, limiter=limiter) == []
    start_thread(list, "own").join()


def test_another_runtime_error_stays_one() -> None:
    with pytest.raises(RuntimeError, match="a bug"), may_need_threads():
        raise RuntimeError("a bug")


async def test_a_user_who_cannot_be_looked_up_is_told_so() -> None:
    users = Users()
    with without_threads(), pytest.raises(RequestError, match="no thread left") as caught:
        await users.find("nobody")
    assert caught.value.code is ErrorCode.BUSY
    found = await users.find("nobody")
    assert found is not None
    assert found.name == "nobody"


def test_logs_without_a_thread_are_refused_and_leave_nothing(tmp_path: Path, log: KeptLog) -> None:
    before = descriptors()
    with without_threads():
        with pytest.raises(NoThreadError):
            Audit(str(tmp_path / "audit"), log)
        with pytest.raises(NoThreadError):
            BackgroundStream(Stderr())
    assert descriptors() == before


async def test_a_part_that_fails_begins_again(log: KeptLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carry_on_module, "PAUSE", 0)
    lacks = [MemoryError(), OSError(errno.EAGAIN, "once more"), ExceptionGroup("", [MemoryError()])]
    failures = [*lacks[:2], ValueError("bug"), lacks[2]]

    async def work() -> None:
        await trio.lowlevel.checkpoint()
        if failures:
            raise failures.pop()

    await carry_on("part", work, log)
    assert not failures
    assert [(line["level"], line["part"], "traceback" in line) for line in log.lines] == [
        ("warning", "part", False),  # and the others of this period are counted
        ("error", "part", True),
    ]


async def test_a_part_goes_on_though_nothing_can_be_told_of_its_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class NoMemory(io.StringIO):
        def write(self, text: str, /) -> int:
            raise MemoryError

    monkeypatch.setattr(carry_on_module, "PAUSE", 0)
    failures: list[Exception] = [MemoryError(), ValueError("bug")]

    async def work() -> None:
        await trio.lowlevel.checkpoint()
        if failures:
            raise failures.pop()

    await carry_on("part", work, Log(NoMemory(), readable=False))
    assert not failures


async def test_an_address_without_a_thread_to_look_it_up_is_not_blamed() -> None:
    with without_threads(), pytest.raises(NoThreadError) as caught:
        await open_listeners("localhost", 0)
    assert "ulimit -u" in (lack_of(caught.value) or "")
