"""What libraries log becomes a line of ours, the same words once in a while."""

import logging
from collections.abc import Iterator

import pytest

from tests.worker.common import KeptLog
from worker import library_log
from worker.library_log import LibraryLog


@pytest.fixture
def library(log: KeptLog) -> Iterator[logging.Logger]:
    """A library's logger."""
    handler = LibraryLog(log)
    logging.getLogger().addHandler(handler)
    yield logging.getLogger("trio.serve_listeners")
    logging.getLogger().removeHandler(handler)


def test_the_same_words_are_told_once_in_a_while(
    library: logging.Logger, log: KeptLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(100):
        library.error("accept returned %s", "EMFILE", exc_info=OSError("a traceback that nobody needs"))
    library.warning("something else")
    library.info("nothing of interest")
    assert [line["words"] for line in log.lines] == ["accept returned EMFILE", "something else"]
    assert {(line["level"], line["library"]) for line in log.lines} == {("warning", library.name)}
    assert not any("traceback" in line for line in log.lines)
    monkeypatch.setattr(library_log, "QUIET", 0.0)
    library.error("accept returned %s", "EMFILE")
    assert len(log.lines) == 3
