"""Calls every method and meets every ending, with the clients that PYTHONPATH leads to, and says what came.

It speaks the language of all versions of our clients. Its argument is a Setting as JSON. It prints a line of
JSON for each thing that it has done, with its name and what came of it, and three for what others have to do:
``begun`` asks for certificates that end soon, and for a line on stdin once they are there; ``ready`` asks to
revoke another one, and to kill the spawner of the server that is small; ``followed`` to kill that server.
Then, once it has told what came of that, the usual server is to end.
"""

import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import trio

from client.errors import ClientError, TlsError
from tests.peers.talking import NO_METHOD, NO_TYPE, WIRE, Setting, read, refusal, tell, told
from wire.errors import RequestError
from wire.limits import Limits

#: More than the small server keeps of all jobs' output.
MUCH = 12_000_000
PRINT = ["sh", "-c", "echo out; echo err >&2; echo $WORD; pwd; exit 3"]
SLEEP = ["sleep", "600"]


async def methods(setting: Setting) -> dict[str, Any]:
    """Every method, with every parameter, and most ways for a job to end."""
    async with setting.client(setting.usual) as client:
        seen: dict[str, Any] = {"identity": client.hello.identity, "role": client.hello.role}
        printed = await client.start(PRINT, env={"WORD": "word"}, cwd="/tmp", merge=True)
        seen["started"] = told(printed)["status"]
        seen["waited"] = told(await client.wait(printed.id))
        seen["queried"] = await client.query(printed.id[:-1]) == await client.query(printed.id)
        seen["streamed"] = await read(client, printed.id)
        seen["from an offset"] = (await read(client, printed.id, offset=8))[0]
        seen["the last bytes"] = (await read(client, printed.id, tail_bytes=9))[0]
        seen["the last line"] = (await read(client, printed.id, tail_lines=1, follow=False))[0]
        seen["since then"] = (await read(client, printed.id, since=time.time() + 60))[0]
        both = await client.start(["sh", "-c", "echo out; echo err >&2"])
        seen["both streams"] = (await read(client, both.id))[0]
        seen["stderr"] = (await read(client, both.id, stream=2))[0]
        seen["signaled"] = told(await client.wait((await client.start(["sh", "-c", "kill -9 $$"])).id))
        seen["timeout"] = told(await client.wait((await client.start(SLEEP, seconds=0.2)).id))
        seen["stopped"] = told(await client.stop((await client.start(SLEEP)).id, grace=5))
        seen["listed"] = printed.id in [job.id for job in await client.list()]
        seen["removed"] = (await client.remove(printed.id)).id == printed.id
        seen["and then"] = await refusal(client.query(printed.id))
    return seen


async def refusals(setting: Setting) -> dict[str, str]:
    """Every code that one can have a server say by asking."""
    async with setting.client(setting.usual) as client, setting.client(setting.usual, "user") as user:
        job = await client.start(SLEEP)
        found = {
            "not_found": await refusal(client.query("nope")),
            "running": await refusal(client.remove(job.id)),
            "no_such_program": await refusal(client.start(["no-such-program"])),
            "not_executable": await refusal(client.start(["/etc/passwd"])),
            "bad_directory": await refusal(client.start(["true"], cwd="/no/such/directory")),
            "bad_user": await refusal(client.start(["true"], user="no-such-user")),
            "bad_request": await refusal(client.start(["true"], limits=Limits(memory=5))),
            "start_failed": await refusal(client.start(["/" + "long" * 2000])),
            "denied": await refusal(user.stop(job.id)),
            "unknown_method": await refusal(client.query(NO_METHOD)),
            "protocol": await refusal(user.query(NO_TYPE)),
        }
        await client.stop(job.id, grace=0)
        letters: set[str] = set()
        while len(letters) < 17:
            letter = (await client.start(["true"])).id[0]
            if letter in letters:
                found["ambiguous"] = await refusal(client.query(letter))
                break
            letters.add(letter)
    return found


async def strict(setting: Setting) -> dict[str, str]:
    """A server that may start nothing, and that lets no more in."""
    async with setting.client(setting.strict) as client, AsyncExitStack() as stack:
        found = {"audit_unavailable": await refusal(client.start(["true"]))}
        for _ in range(10):
            found["busy"] = await refusal(stack.enter_async_context(setting.client(setting.strict, "user")))
            if found["busy"] != "nothing":
                break
    return found


async def much(setting: Setting) -> list[Any]:
    """How many bytes come of a log that lost its beginning, with those in its gaps, and why they are gone."""
    async with setting.client(setting.small) as client:
        job = await client.start(["head", "-c", str(MUCH), "/dev/zero"])
        await client.wait(job.id)
        kept, gaps, end = await read(client, job.id)
    return [
        kept.get(1, 0) + sum(size for _, size, _ in gaps),
        sorted({reason for *_, reason in gaps}),
        end["exit_code"],
    ]


async def stalled(setting: Setting) -> int:
    """How many bytes come of a stream that was given up meanwhile, and asked for again.

    The Trio client is told so. A blocking one takes nothing at all meanwhile, and may be cut as well.
    """
    async with setting.client(setting.usual, patience=60) as client:
        job = await client.start(["sh", "-c", "head -c 5000000 /dev/zero; sleep 600"])
        count = 0
        async with client.stream(job.id) as stream:
            while count < 5_000_000:
                piece = await stream.piece()
                if count == 0 and setting.kind == "trio":
                    with trio.move_on_after(60 * setting.slow):
                        while "stalled" not in WIRE.heard:  # noqa: ASYNC110  # any thread may hear it
                            await trio.sleep(0.05)
                elif count == 0:
                    await trio.sleep(2.5 * setting.slow)  # more than twice as long as the server waits
                count += len(piece.data)
        await client.stop(job.id, grace=0)
    return count


async def cancelled(setting: Setting) -> list[Any]:
    """A stream is left, and a call cancelled, and others go on on the same connection."""
    async with setting.client(setting.usual) as client:
        job = await client.start(["sh", "-c", "echo hello; exec sleep 600"])
        async with client.stream(job.id) as stream:
            first = await stream.piece()
        if setting.kind == "trio":
            with trio.move_on_after(0.1) as scope:
                await client.wait(job.id)
            assert scope.cancelled_caught
        stopped = await client.stop(job.id, grace=0)
        others = [
            await client.query(job.id) == stopped,
            job.id in [found.id for found in await client.list()],
        ]
    return [first.data.decode(), told(stopped), *others]


async def until_refused(setting: Setting, identity: str, job_id: str, up: Callable[[], None]) -> str:
    """Wait for a job whose end does not come, as somebody whose certificate's end does."""
    async with setting.client(setting.usual, identity) as client:
        up()
        return await refusal(client.wait(job_id))


async def short(setting: Setting) -> str:
    async with setting.client(setting.usual) as client:
        job = await client.start(SLEEP)
    for name in setting.short:
        with suppress(TlsError):  # it has ended: this machine is slow
            return await until_refused(setting, name, job.id, lambda: None)
    return "late"


Up = trio.TaskStatus[None]


async def leaving(setting: Setting, *, task_status: Up) -> None:
    """The certificate of a client is revoked."""
    async with setting.client(setting.usual) as client:
        job = await client.start(SLEEP)
    tell("leaving", await until_refused(setting, "leaving", job.id, task_status.started))


async def lost(setting: Setting, *, task_status: Up) -> None:
    """The spawner of a job is killed; then the server, while another is followed."""
    async with setting.client(setting.small) as client:
        job = await client.start(SLEEP)
        task_status.started()
        tell("lost", told(await client.wait(job.id)))
        while await refusal(client.query((job := await client.start(SLEEP)).id)) != "nothing":
            pass
        async with client.stream(job.id) as stream:
            tell("followed")
            try:
                await stream.piece()
            except ClientError as error:
                tell("cut", type(error).__name__)


async def end(setting: Setting, *, task_status: Up) -> None:
    """A job runs, and is followed, until the server ends."""
    async with setting.client(setting.usual) as client:
        job = await client.start(["sh", "-c", "echo there; exec sleep 600"])
        async with client.stream(job.id) as stream:
            while (piece := await stream.piece()) is not None:
                if piece.data == b"there\n":
                    task_status.started()
        try:
            while True:
                await client.query(job.id)
        except (ClientError, RequestError) as error:
            tell("end", [told(stream.job), str(getattr(error, "code", "cut"))])


async def converse(setting: Setting) -> None:
    async def do(scenario: Callable[[Setting], Awaitable[object]]) -> None:
        tell(scenario.__name__, await scenario(setting))

    tell("begun")
    await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
    async with trio.open_nursery() as nursery:
        for scenario in (short, methods, refusals, strict, much, stalled, cancelled):
            nursery.start_soon(do, scenario)
    async with trio.open_nursery() as nursery:
        for ending in (leaving, lost, end):
            await nursery.start(ending, setting)
        tell("ready")


if __name__ == "__main__":
    WIRE.watch()
    trio.run(converse, Setting(**json.loads(sys.argv[1])))
    tell("heard", sorted(WIRE.heard))
    tell("called", sorted(WIRE.called))
