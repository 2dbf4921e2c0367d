"""Threads that share one blocking client get a clear error or their own answer, never another's."""

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import pytest

from client.blocking import Client, connect
from client.errors import CutError, InUseError, RequestError
from tests.client.either import SCHEMES
from tests.harness import PATIENCE, Server, eventually


def insist(call: Callable[[], object]) -> threading.Thread:
    """A thread that calls, again as long as it is refused."""

    def run() -> None:
        while True:
            with suppress(InUseError):
                call()
                return

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def refused(client: Client) -> InUseError | None:
    """Why another thread's call is refused; None if it was made."""
    try:
        client.list().__next__()
    except InUseError as error:
        return error
    except StopIteration:
        pass
    return None


def test_a_second_thread_is_refused_while_the_first_waits(server: Server) -> None:
    with server.connect() as client, server.connect() as other:
        job = other.start(["sleep", "600"])
        found: list[int | None] = []
        thread = insist(lambda: found.append(client.wait(job.id).signal))
        error = eventually(lambda: refused(client), "a refusal")
        assert isinstance(error, RuntimeError)
        assert "one for each thread" in str(error)
        for call in (
            lambda: client.start(["true"]),
            lambda: client.stream(job.id),
            lambda: client.query(job.id),
        ):
            with pytest.raises(InUseError):
                call()
        signal = other.stop(job.id).signal
        thread.join(PATIENCE)
        assert found == [signal]
        assert client.query(job.id).signal == signal  # its turn is over


def test_a_stream_is_one_threads_too(server: Server) -> None:
    with server.connect() as client, server.connect() as other:
        job = other.start(["sh", "-c", "exec sleep 600"])
        stream = client.stream(job.id)
        pieces: list[object] = []
        thread = insist(lambda: pieces.extend(stream))
        eventually(lambda: refused(client), "a refusal")
        with pytest.raises(InUseError):
            next(stream)
        signal = other.stop(job.id).signal
        thread.join(PATIENCE)
        assert pieces == []
        assert stream.job.signal == signal


@pytest.mark.parametrize("scheme", SCHEMES)
def test_to_close_it_ends_what_another_thread_waits_for(server: Server, scheme: str) -> None:
    errors: list[CutError] = []
    client = connect(scheme + server.address, certs=server.certs, identity="admin")  # which would come back
    with server.connect() as other:
        job = other.start(["sleep", "600"])

        def wait() -> None:
            try:
                client.wait(job.id)
            except CutError as error:
                errors.append(error)

        thread = insist(wait)
        eventually(lambda: refused(client), "a refusal")
        client.close()
        thread.join(PATIENCE)
        assert [str(error) for error in errors] == ["This client is closed."]
        with pytest.raises(CutError, match="is closed"):
            client.query(job.id)
        other.stop(job.id)


@pytest.mark.parametrize("locked", [False, True])
def test_threads_at_full_speed_get_their_own_answers(server: Server, locked: bool) -> None:
    lock = threading.Lock()
    outcomes: Counter[str] = Counter()
    with server.connect() as client:
        jobs = [client.start(["true"]).id for _ in range(4)]

        def ask(job: str) -> None:
            for _ in range(50):
                try:
                    if locked:
                        with lock:
                            found = client.query(job)
                    else:
                        found = client.query(job)
                    outcomes["own" if found.id == job else "another's"] += 1
                except InUseError:
                    outcomes["refused"] += 1
                except RequestError:
                    outcomes["failed"] += 1

        threads = [threading.Thread(target=ask, args=(job,)) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert sum(outcomes.values()) == 200
        assert set(outcomes) <= {"own", "refused"}
        assert outcomes["own"] == 200 or not locked
        assert client.query(jobs[0]).id == jobs[0]
