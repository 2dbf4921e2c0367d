"""The audit log's way to its file: whole lines in order, whatever the sink does; what is lost is counted."""

import errno
import io
import json
import os
import resource
import select
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio

from tests.harness import PATIENCE, eventually
from tests.worker.common import KeptLog
from worker import audit_sink
from worker.audit_file import STDERR, AuditFile
from worker.audit_sink import AuditSink, Line

Open = Callable[..., "Writer"]


class Writer:
    """A sink, and what it was given."""

    def __init__(
        self, path: Path, log: KeptLog, room: int, gap: Callable[[int, int], bytes] | None = None
    ) -> None:
        self.sink = AuditSink(str(path), log, gap or gap_line, room=room)
        self.log = log
        self.numbers = count(1)

    def put(self, lines: int = 1, width: int = 0) -> Line:
        for _ in range(lines):
            number = next(self.numbers)
            text = json.dumps({"seq": number, "pad": "x" * width})
            line = Line(number, text.encode() + b"\n")
            self.sink.put(line)
        return line

    def logged(self, beginning: str) -> dict[str, object]:
        """Wait for a line of the server's log."""
        found: dict[str, object] = eventually(
            lambda: next((line for line in self.log.lines if line["message"].startswith(beginning)), None),
            beginning,
        )
        return found

    def told(self) -> list[int]:
        """How many lines were lost, each time that the server's log was told."""
        lines = [line for line in self.log.lines if line["message"] == "audit lines were given up"]
        return [int(str(line["lines"])) for line in lines]


def gap_line(first: int, lines: int) -> bytes:
    return json.dumps({"gap": first, "lines": lines}).encode() + b"\n"


@pytest.fixture
def writing(log: KeptLog) -> Iterator[Open]:
    with ExitStack() as stack:

        def start(path: Path, room: int = audit_sink.QUEUE_BYTES) -> Writer:
            writer = Writer(path, log, room)
            stack.callback(writer.sink.close, 0)
            return writer

        yield start


def check(data: bytes, last: int) -> int:
    """Every line up to the last is there, in order, or told in its very place; return how many were told."""
    expected, lost = 1, 0
    assert data.endswith(b"\n")
    for text in data.splitlines():
        line = json.loads(text)
        assert line.get("seq", line.get("gap")) == expected
        expected += line.get("lines", 1)
        lost += line.get("lines", 0)
    assert expected == last + 1
    return lost


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """A disk that is full past so many bytes of a file: a write goes in part, the next one fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_lines_go_to_the_file_in_order(writing: Open, log: KeptLog, tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    writer = writing(path)
    writer.put(5000, width=200)
    writer.sink.close(20)
    assert check(path.read_bytes(), 5000) == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert log.messages == []


def test_lines_are_appended_and_a_dead_servers_half_line_is_ended(writing: Open, tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.write_bytes(b'{"seq": 1}\n{"se')
    path.chmod(0o640)
    writer = writing(path)
    writer.put(2)
    writer.sink.close(20)
    lines = path.read_bytes().splitlines()
    assert lines[:2] == [b'{"seq": 1}', b'{"se']
    assert [json.loads(line)["seq"] for line in lines[2:]] == [1, 2]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640  # the operator's choice


@pytest.mark.parametrize("name", ["", "missing/audit.log", "."])
def test_a_file_that_cannot_be_opened_is_an_error(name: str, log: KeptLog, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"directory"):
        AuditSink(str(tmp_path / name) if name else "", log, gap_line)


def test_logrotate(writing: Open, tmp_path: Path) -> None:
    path, old = tmp_path / "audit.log", tmp_path / "audit.log.1"
    writer = writing(path)
    writer.put()
    eventually(path.read_bytes, "the first line")
    path.rename(old)
    writer.put()
    eventually(lambda: old.read_bytes().count(b"\n") == 2, "the old file is used until it is told")
    assert not path.exists()
    writer.sink.reopen()
    eventually(path.exists, "the new file, at once")
    writer.put()
    eventually(path.read_bytes, "the third line")
    assert check(old.read_bytes() + path.read_bytes(), 3) == 0


def test_a_file_that_cannot_be_opened_again_stays(writing: Open, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "audit.log"
    writer = writing(path)
    (tmp_path / "a").rename(tmp_path / "b")
    writer.sink.reopen()
    assert writer.logged("the audit log was not opened again")["reason"] == "No such file or directory"
    writer.put()
    eventually((tmp_path / "b" / "audit.log").read_bytes, "the line in the old file")


def test_a_deleted_file_is_made_again(writing: Open, tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    writer = writing(path)
    path.unlink()
    writer.put()
    writer.sink.close(20)
    assert check(path.read_bytes(), 1) == 0
    assert "was deleted" in writer.log.messages[0]


def test_a_deleted_directory_stalls_it(writing: Open, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    writer = writing(folder / "audit.log")
    (folder / "audit.log").unlink()
    folder.rmdir()
    writer.put(3)
    writer.logged("the audit log takes no lines")
    folder.mkdir()
    writer.sink.close(20)
    assert check((folder / "audit.log").read_bytes(), 3) == 0


def test_a_full_sink_is_reported_and_a_new_one_gets_every_line(writing: Open, tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.symlink_to("/dev/full")
    writer = writing(path)
    writer.put(100)
    told = writer.logged("the audit log takes no lines")
    assert (told["level"], told["reason"]) == ("error", "No space left on device")
    path.unlink()
    writer.sink.reopen()
    writer.logged("the audit log takes lines again")
    writer.sink.close(20)
    assert check(path.read_bytes(), 100) == 0


@pytest.mark.parametrize("rotate", [False, True], ids=["room again", "another file"])
def test_half_a_line_on_a_full_disk(writing: Open, tmp_path: Path, rotate: bool) -> None:
    path, old = tmp_path / "audit.log", tmp_path / "audit.log.1"
    writer = writing(path)
    with file_size_limit(1000):
        writer.put(1, width=600)
        writer.put(50, width=600)
        writer.logged("the audit log takes no lines")
        eventually(lambda: path.stat().st_size == 1000, "as much as goes")
        if rotate:
            path.rename(old)
            writer.sink.reopen()
            eventually(lambda: path.exists() and path.stat().st_size, "the new file")
    writer.sink.close(20)
    if rotate:
        whole, _, half = old.read_bytes().rpartition(b"\n")
        assert path.read_bytes().startswith(half)
        assert check(whole + b"\n" + path.read_bytes(), 51) == 0
    else:
        assert check(path.read_bytes(), 51) == 0


def test_a_fifo_waits_for_its_reader(writing: Open, tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    writer = writing(path)
    writer.put(10)
    assert writer.logged("the audit log takes no lines")["reason"] == "nobody reads it"
    with path.open("rb") as reader:
        assert check(b"".join(reader.readline() for _ in range(10)), 10) == 0
    writer.put(1)  # its reader has left, and another one comes
    eventually(lambda: writer.log.messages.count("the audit log takes no lines; they wait") == 2, "a stall")
    with path.open("rb") as reader:
        assert json.loads(reader.readline())["seq"] == 11


class PatientReader(io.FileIO):
    """A FIFO's end that fails rather than wait for ever for what does not come."""

    def read(self, size: int | None = -1) -> bytes:
        assert select.select([self], [], [], PATIENCE)[0], "nothing came"
        return super().read(size) or b""


@contextmanager
def reading(path: Path) -> Iterator[PatientReader]:
    """A FIFO that is open for reading, and not read."""
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # without, it would wait for the writer
    with PatientReader(descriptor) as reader:
        os.set_blocking(reader.fileno(), True)
        yield reader


def read_up_to(reader: PatientReader, last: int) -> bytes:
    """Read until the last line is there, or told as lost."""
    data = b""
    while not data.endswith(b"\n") or last_of(data) < last:
        data += reader.read(4096)
    return data


def last_of(data: bytes) -> int:
    line = json.loads(data[data.rfind(b"\n", 0, -1) + 1 :])
    return int(line["seq"] if "seq" in line else line["gap"] + line["lines"] - 1)


def test_a_slow_fifo_is_reported_and_what_is_lost_is_told_exactly(
    writing: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_sink, "STALL_SECONDS", 0.05)
    with reading(tmp_path / "fifo") as reader:
        writer = writing(tmp_path / "fifo", 100_000)
        writer.put(1000, width=1000)  # a million bytes
        assert writer.logged("audit lines are given up")["level"] == "error"
        assert "nobody has read it" in str(writer.logged("the audit log takes no lines")["reason"])
        lost = check(read_up_to(reader, 1000), 1000)  # and no other line needs to come before that is told
        # The pipe takes 64 KiB, the write under way has as much, and the queue has its room.
        assert 1000 - (2 * 65_536 + 100_000) / 1000 < lost < 1000
        # Lines that the thread takes make room, so it may tell of a part, and of more the next time.
        assert sum(writer.told()) == lost
        writer.put()
        assert json.loads(reader.readline())["seq"] == 1001


def test_a_reader_that_is_slow_now_and_then_misses_nothing_that_is_not_told(
    writing: Open, tmp_path: Path
) -> None:
    turns = Random(5)  # noqa: S311  # a seed, so that a failure comes again
    with reading(tmp_path / "fifo") as reader:
        writer = writing(tmp_path / "fifo", 20_000)
        data, last = b"", 0
        for _ in range(300):
            lines = turns.randrange(1, 40)
            writer.put(lines, width=turns.randrange(3000))
            last += lines
            for _ in range(turns.randrange(8)):
                data += reader.read(turns.randrange(1, 16_000))
                if data.endswith(b"\n") and last_of(data) == last:
                    break
        if not data.endswith(b"\n") or last_of(data) < last:
            data += reader.readline()
            data += read_up_to(reader, last) if last_of(data) < last else b""
    lost = check(data, last)
    assert sum(writer.told()) == lost > 100
    assert len(writer.told()) > 3


async def test_waiting_for_a_line(writing: Open, tmp_path: Path) -> None:
    with trio.fail_after(PATIENCE):
        writer = writing(tmp_path / "audit.log")
        line = writer.put()
        assert await writer.sink.wait_written(line, 5)
        assert await writer.sink.wait_written(line, 0)
        assert check((tmp_path / "audit.log").read_bytes(), 1) == 0


async def test_waiting_for_a_line_that_does_not_get_there(writing: Open, tmp_path: Path) -> None:
    """A sink that fails says so at once, before any patience is used up, and so does one that is full."""
    with trio.fail_after(PATIENCE):
        full = writing(Path("/dev/full"))
        assert not await full.sink.wait_written(full.put(), 600)
        with reading(tmp_path / "fifo"):
            slow = writing(tmp_path / "fifo", 100_000)
            lost = slow.put(200, width=1000)
            assert not await slow.sink.wait_written(lost, 600)
            unread = slow.put(width=10)
            assert not await slow.sink.wait_written(unread, 0.01)


async def test_a_line_that_waits_is_seen_to_arrive(writing: Open, tmp_path: Path) -> None:
    with trio.fail_after(PATIENCE), reading(tmp_path / "fifo") as reader:
        writer = writing(tmp_path / "fifo")
        line = writer.put(100, width=1000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, read_up_to, reader, 100)
            assert await writer.sink.wait_written(line, 600)


def test_a_write_that_does_not_return_is_reported_by_the_next_line(
    log: KeptLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stderr is not ours to make non-blocking, and a file's disk may hang: then the thread hangs."""
    monkeypatch.setattr(audit_sink, "STALL_SECONDS", 0.05)
    release = threading.Event()
    monkeypatch.setattr(os, "write", lambda fd, data: release.wait(20) and len(data))
    sink = AuditSink(STDERR, log, gap_line)
    sink.put(Line(1, b"{}\n"))
    eventually(lambda: sink._began, "the write")
    time.sleep(0.06)
    assert not sink.stalled
    sink.put(Line(2, b"{}\n"))
    assert sink.stalled
    assert log.lines[0]["reason"] == "it has taken nothing for 0.05 s"
    release.set()
    sink.close(20)
    assert log.messages[1:] == ["the audit log takes lines again"]


def test_the_end_waits_for_nobody_and_tells_what_is_lost(tmp_path: Path, log: KeptLog) -> None:
    os.mkfifo(tmp_path / "fifo")
    writer = Writer(tmp_path / "fifo", log, 10_000)
    writer.put(100, width=1000)
    before = time.monotonic()
    writer.sink.close(0.1)
    assert time.monotonic() - before < 2
    assert writer.logged("the last audit lines were lost")["lines"] == 100


def test_a_file_that_hangs_when_it_is_opened_again_holds_up_nobody(
    writing: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = writing(tmp_path / "audit.log")
    line = writer.put()
    eventually(lambda: line.written, "a line in the file")
    opening, go_on = threading.Event(), threading.Event()
    really = AuditFile._open

    def hang(sink: AuditFile) -> None:
        opening.set()
        assert go_on.wait(PATIENCE)
        really(sink)

    monkeypatch.setattr(AuditFile, "_open", hang)
    try:
        writer.sink.reopen()
        assert opening.wait(PATIENCE)
        put = threading.Thread(target=writer.put)
        put.start()
        put.join(PATIENCE / 2)
        assert not put.is_alive()
    finally:
        go_on.set()


def test_a_thread_that_fails_goes_on_and_loses_no_line(
    log: KeptLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audit.log"
    failures: dict[str, list[Exception]] = {}

    def let_fail(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            if failures.get(name):
                raise failures[name].pop()
            return work(*given)

        return run

    def write_part(file: AuditFile, data: bytes, begin: int) -> int:
        return really(file, data[: begin + 500], begin)

    really = AuditFile.write
    monkeypatch.setattr(audit_sink, "RETRY_SECONDS", 0.001)
    monkeypatch.setattr(AuditFile, "write", let_fail("write", write_part))
    for name in ("was_deleted", "open_again"):
        monkeypatch.setattr(AuditFile, name, let_fail(name, getattr(AuditFile, name)))
    writer = Writer(path, log, 20_000, let_fail("gap", gap_line))
    for name in ("write", "was_deleted", "open_again", "gap"):
        failures[name] = [ValueError("bug"), MemoryError(), OSError(errno.ESTALE, "stale")]
        if name == "open_again":
            path.rename(tmp_path / "old")
            writer.sink.reopen()
        writer.put(40, width=1000)  # of which some are too many
        eventually(lambda: not failures[name], name)  # noqa: B023
        line = writer.put()
        eventually(lambda: line.written or line.lost, "a line after it")  # noqa: B023
    eventually(lambda: not writer.sink._queued, "all lines")
    writer.sink.close(20)
    assert check((tmp_path / "old").read_bytes() + path.read_bytes(), next(writer.numbers) - 1) > 0
    assert {"the audit log takes no lines; they wait", "the audit log takes lines again"} < set(log.messages)
