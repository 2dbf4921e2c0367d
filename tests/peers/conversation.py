"""Calls every method and meets every ending, with the clients that PYTHONPATH leads to, and says what came.

It speaks the language of all versions of our clients. Its arguments: the server's address, with ``wss://``
or not, and the directory of the certificates. It prints a line of JSON for each thing that it has done, with
its name and what came of it; ``"ready"`` once only the server's end is left to come.
"""

import inspect
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from client import blocking, trio_client
from client.errors import ClientError
from wire.errors import RequestError
from wire.jobs import JobStatus
from wire.limits import Limits

ADDRESS, CERTS = sys.argv[1], Path(sys.argv[2])
#: More than the server keeps of all jobs' output.
MUCH = 12_000_000
PRINT = ["sh", "-c", "echo out; echo err >&2; echo $WORD; pwd; exit 3"]


def tell(name: str, found: object = None) -> None:
    """Print what came of one thing."""
    sys.stdout.write(json.dumps([name, found]) + "\n")
    sys.stdout.flush()


def refusal(call: Callable[[], object]) -> str:
    """The code with which a server refuses something."""
    try:
        call()
    except RequestError as error:
        return str(error.code)
    return "nothing"


def told(job: JobStatus) -> dict[str, Any]:
    """What is the same of a job whenever it runs."""
    cause = job.cause
    return {
        "status": str(job.status),
        "exit_code": job.exit_code,
        "signal": job.signal,
        "cause": cause and str(cause.kind),
        "by": cause and cause.by,
        "ended": job.ended is not None,
        "output": job.output,
    }


def open_stream(client: blocking.Client, job_id: str, **options: Any) -> Any:
    """A stream that gives gaps too."""
    if "gaps" in inspect.signature(client.stream).parameters:
        options["gaps"] = "yield"
    return client.stream(job_id, **options)


def read(client: blocking.Client, job_id: str, **options: Any) -> list[Any]:
    """What a stream brings: the bytes of each stream, the range and reason of each gap, the job's end."""
    found: dict[int, bytes] = {}
    gaps = []
    with open_stream(client, job_id, **options) as stream:
        for piece in stream:
            if hasattr(piece, "reason"):
                gaps.append([piece.offset, piece.size, str(piece.reason)])
            else:
                found[piece.stream] = found.get(piece.stream, b"") + piece.data
    shown = {number: data.decode() if len(data) < 100 else len(data) for number, data in found.items()}
    return [shown, gaps, told(stream.job)]


def methods(client: blocking.Client) -> dict[str, Any]:
    """Every method, with every parameter, and every way for a job to end."""
    seen: dict[str, Any] = {"identity": client.hello.identity, "role": client.hello.role}
    printed = client.start(PRINT, env={"WORD": "word"}, cwd="/tmp", merge=True)
    seen["started"] = told(printed)["status"]
    seen["waited"] = told(client.wait(printed.id))
    seen["queried"] = client.query(printed.id[:-1]) == client.query(printed.id)
    seen["streamed"] = read(client, printed.id)
    seen["from an offset"] = read(client, printed.id, offset=8)[0]
    seen["the last bytes"] = read(client, printed.id, tail_bytes=9)[0]
    seen["the last line"] = read(client, printed.id, tail_lines=1, follow=False)[0]
    seen["since then"] = read(client, printed.id, since=time.time() + 60)[0]
    both = client.start(["sh", "-c", "echo out; echo err >&2"])
    seen["both streams"] = read(client, both.id)[0]
    seen["stderr"] = read(client, both.id, stream=2)[0]
    seen["signaled"] = told(client.wait(client.start(["sh", "-c", "kill -9 $$"]).id))
    seen["timeout"] = told(client.wait(client.start(["sleep", "600"], seconds=0.2).id))
    seen["stopped"] = told(client.stop(client.start(["sleep", "600"]).id, grace=5))
    seen["listed"] = printed.id in [job.id for job in client.list()]
    much = client.start(["head", "-c", str(MUCH), "/dev/zero"])
    client.wait(much.id)
    kept, gaps, end = read(client, much.id)
    seen["much"] = [
        kept.get(1, 0) + sum(size for _, size, _ in gaps),
        sorted({reason for *_, reason in gaps}),
    ]
    seen["removed"] = [client.remove(printed.id).id == printed.id, end["exit_code"]]
    return seen


def refusals(client: blocking.Client, user: blocking.Client) -> dict[str, str]:
    """Every code that one can have a server say by asking."""
    job = client.start(["sleep", "600"])
    found = {
        "not_found": refusal(lambda: client.query("nope")),
        "running": refusal(lambda: client.remove(job.id)),
        "no_such_program": refusal(lambda: client.start(["no-such-program"])),
        "not_executable": refusal(lambda: client.start(["/etc/passwd"])),
        "bad_directory": refusal(lambda: client.start(["true"], cwd="/no/such/directory")),
        "bad_user": refusal(lambda: client.start(["true"], user="no-such-user")),
        "bad_request": refusal(lambda: client.start(["true"], limits=Limits(memory=5))),
        "denied": refusal(lambda: user.stop(job.id)),
    }
    client.stop(job.id, grace=0)
    return found


def stalled(client: blocking.Client) -> int:
    """How many bytes come of a stream that was given up meanwhile, and asked for again."""
    job = client.start(["sh", "-c", "head -c 5000000 /dev/zero; sleep 600"])
    count = 0
    with open_stream(client, job.id) as stream:
        for piece in stream:
            if count == 0:
                time.sleep(2.5)  # the server gives it up after one second
            count += getattr(piece, "size", len(piece.data))  # what the jobs of others pushed out is told
            if count == 5_000_000:
                break
    client.stop(job.id, grace=0)
    return count


async def cancelled() -> list[Any]:
    """A call is cancelled, and others go on on the same connection."""
    async with trio_client.open_client(ADDRESS, certs=CERTS, identity="admin") as client:
        job = await client.start(["sh", "-c", "echo hello; exec sleep 600"])
        with trio.move_on_after(0.2) as scope:
            await client.wait(job.id)
        async with client.stream(job.id) as stream:
            async for piece in stream:
                first = piece.data
                break
        stopped = await client.stop(job.id, grace=0)
        others = [
            await client.query(job.id) == stopped,
            job.id in [found.id async for found in client.list()],
        ]
    return [scope.cancelled_caught, first.decode(), told(stopped), *others]


def the_end(client: blocking.Client) -> list[Any]:
    """A job runs, and is followed, until the server ends."""
    job = client.start(["sh", "-c", "echo there; exec sleep 600"])
    with client.stream(job.id) as stream:
        for piece in stream:
            if piece.data == b"there\n":
                tell("ready")
    try:
        while True:
            client.query(job.id)
    except (ClientError, RequestError) as error:
        return [told(stream.job), str(getattr(error, "code", "cut"))]


def main() -> None:
    with (
        blocking.connect(ADDRESS, certs=CERTS, identity="admin") as client,
        blocking.connect(ADDRESS, certs=CERTS, identity="user") as user,
    ):
        tell("methods", methods(client))
        tell("refusals", refusals(client, user))
        tell("stalled", stalled(client))
        tell("cancelled", trio.run(cancelled))
    with blocking.connect(ADDRESS, certs=CERTS, identity="admin", patience=0) as last:
        tell("end", the_end(last))


main()
