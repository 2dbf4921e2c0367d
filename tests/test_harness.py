"""What tests wait for has an end, whatever it waits for does."""

import itertools
import signal
import subprocess
import threading

import pytest

from tests import harness


def test_a_process_that_prints_nothing_is_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["sh", "-c", "echo first; exec sleep 600"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert harness.next_line(process) == "first\n"
        monkeypatch.setattr(harness, "PATIENCE", 0.1)
        assert harness.next_line(process) == ""
    assert process.returncode == -signal.SIGABRT


def test_a_process_that_prints_is_left_alone() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        process.stdin.write("first\n")
        process.stdin.flush()
        assert harness.next_line(process) == "first\n"
        process.stdin.close()
        assert harness.next_line(process) == ""
    assert process.returncode == 0


def test_a_thread_that_goes_on_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="this one")
    thread.start()
    with monkeypatch.context() as patch:
        patch.setattr(harness, "PATIENCE", 0.1)
        with pytest.raises(AssertionError, match="this one does not end"):
            harness.join(thread)
    end.set()
    harness.join(thread)


def test_what_changes_is_read_until_it_is_at_rest() -> None:
    values = iter([3, 4, 3, 3, 4, 3])
    assert harness.at_rest(lambda: next(values, 2), 0.05) == 2


def test_what_never_rests_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "PATIENCE", 0.1)
    numbers = itertools.count()
    with pytest.raises(AssertionError, match="never at rest"):
        harness.at_rest(lambda: next(numbers))
