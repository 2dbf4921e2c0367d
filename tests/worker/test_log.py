"""Log lines are whole, readable and harmless, whatever is logged."""

import io
import json
import re
import threading
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness import PATIENCE, eventually
from worker.log import BackgroundStream, Log


@given(st.text(), st.one_of(st.text(), st.binary(), st.integers(), st.none(), st.builds(OSError, st.text())))
def test_json_lines_are_one_object_a_line(text: str, value: object) -> None:
    stream = io.StringIO()
    Log(stream).warning("happened", text=text, value=value)
    (line,) = stream.getvalue().split("\n")[:-1]
    assert line.isascii()
    assert line.isprintable()
    found = json.loads(line)
    assert list(found)[:3] == ["time", "level", "message"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found["time"])
    assert (found["level"], found["message"], found["text"]) == ("warning", "happened", text)


@given(st.text())
def test_readable_lines_hold_nothing_that_a_terminal_obeys(text: str) -> None:
    stream = io.StringIO()
    Log(stream, readable=True).info("happened", text=text)
    line = stream.getvalue()
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    value = line.rstrip("\n").partition(" text=")[2]
    assert text in (value, json.loads(value) if value.startswith('"') else value)


def test_readable_lines() -> None:
    stream = io.StringIO()
    log = Log(stream, readable=True)
    log.info("job started", job="abc", owner="Al ice\x1b[2J", empty="")
    log.error("failed")
    first, second = stream.getvalue().splitlines()
    assert re.fullmatch(
        r'\d\d:\d\d:\d\d info    job started job=abc owner="Al ice\\u001b\[2J" empty=""', first
    )
    assert second.endswith(" error   failed")


def test_terminals_get_readable_lines_and_others_json() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, begins in ((Terminal(), False), (io.StringIO(), True)):
        Log(stream).info("x")
        assert stream.getvalue().startswith("{") is begins


@pytest.mark.parametrize("readable", [True, False])
def test_an_exception_is_told_with_its_traceback(readable: bool) -> None:
    stream = io.StringIO()
    try:
        raise ValueError("odd")
    except ValueError:
        Log(stream, readable=readable).exception("failed", job="abc")
    assert stream.getvalue().count("\n") == 1
    assert "ValueError: odd" in stream.getvalue()
    assert "abc" in stream.getvalue()


def test_a_stream_that_takes_nothing_ends_nobody() -> None:
    closed = io.StringIO()
    closed.close()
    Log(closed, readable=False).info("x")

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    Log(Full()).error("x")


def test_a_process_without_stderr_logs_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    Log().info("x")


class StalledStream(io.StringIO):
    """A stream whose reader does not read until `go`."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def write(self, text: str) -> int:
        self.go.wait(PATIENCE)
        return super().write(text)


def test_a_stalled_reader_makes_nobody_wait_and_losses_are_told() -> None:
    stalled = StalledStream()
    background = BackgroundStream(stalled, lines=10)
    log = Log(background, readable=False)
    for number in range(100):
        log.info("line", number=number)
    stalled.go.set()
    while background._queue.qsize():
        pass
    log.info("after")
    background.close()
    lines = [json.loads(line) for line in stalled.getvalue().splitlines()]
    numbers = [line["number"] for line in lines if line["message"] == "line"]
    (told,) = [line["lines"] for line in lines if "dropped" in line["message"]]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) + told == 100
    assert lines[-1]["message"] == "after"


def test_a_background_stream_survives_its_streams_end() -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    background = BackgroundStream(Broken())
    log = Log(background, readable=False)
    for _ in range(5):
        log.info("x")
    background.close()
    assert not background._thread.is_alive()


def test_a_lack_of_memory_does_not_end_the_log() -> None:
    class Lacking(io.StringIO):
        failures: ClassVar = [MemoryError()]

        def write(self, text: str) -> int:
            if self.failures:
                raise self.failures.pop()
            return super().write(text)

    stream = Lacking()
    background = BackgroundStream(stream)
    log = Log(background, readable=False)
    log.info("lost")
    eventually(lambda: background._dropped, "the failure")
    log.info("after")
    background.close()
    told, after = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (told["lines"], after["message"]) == (1, "after")


def test_closing_a_stalled_background_stream_is_bounded() -> None:
    stalled = StalledStream()
    background = BackgroundStream(stalled, lines=1)
    for _ in range(3):
        background.write("x\n")
    background.close(patience=0.01)
    stalled.go.set()
    background.close()
    assert not background._thread.is_alive()
