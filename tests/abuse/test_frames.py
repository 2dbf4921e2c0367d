"""What reading a hostile client's frames costs others: time, and the server's memory."""

from pathlib import Path

import pytest

from tests.abuse.figures import frames, quick
from tests.harness import SLOW, serve
from worker.intake import LARGE_FRAMES

#: The most processor time that one round of the loop takes, in milliseconds.
ROUND_MS = 50
MEBIBYTE = 2**20
CONNECTIONS = 8


@pytest.mark.parametrize(
    ("kind", "identity"),
    [
        *((kind, "user") for kind in ("cancels", "ws-cancels", "credits", "pings", "unknown")),
        *((kind, identity) for kind in ("nested", "deep", "start") for identity in ("user", "admin")),
        ("repeat", "admin"),
    ],
)
def test_no_frame_holds_anybody_up(shared_certificates: Path, kind: str, identity: str) -> None:
    with serve(shared_certificates) as server:
        figures = frames(server, kind, identity, CONNECTIONS, 1.5)
        server.end()
        ended = server.logged("ended")
    assert figures.told["sent"], figures
    assert quick(figures.queries), figures
    assert ended["longest_round_cpu_ms"] < ROUND_MS * SLOW, (figures, ended)
    assert ended["longest_spawner_round_cpu_ms"] < ROUND_MS * SLOW, (figures, ended)


@pytest.mark.parametrize("kind", ["partial", "ws-partial"])
def test_of_a_frame_no_more_is_kept_than_it_may_have(shared_certificates: Path, kind: str) -> None:
    with serve(shared_certificates) as server:
        figures = frames(server, kind, "user", CONNECTIONS, 1)
    assert figures.told["sent"] >= CONNECTIONS
    assert figures.after - figures.before < CONNECTIONS * 2 * MEBIBYTE, figures


def test_of_large_frames_few_are_kept(shared_certificates: Path) -> None:
    connections = 5 * LARGE_FRAMES
    with serve(shared_certificates) as server:
        figures = frames(server, "partial", "admin", connections, 1)
    assert figures.told["sent"] >= connections
    assert figures.after - figures.before < (LARGE_FRAMES * 6 + connections) * MEBIBYTE, figures
