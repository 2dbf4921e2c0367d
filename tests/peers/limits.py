"""Meets what a host makes of limits, with the clients that PYTHONPATH leads to, and says what came.

Its argument is a Setting as JSON, whose strict server is one on a host without cgroups.
"""

import json
import sys

import trio

from tests.peers.talking import Setting, refusal, tell, told
from wire.limits import Limits

MIB = 2**20


async def main(setting: Setting) -> None:
    async with setting.client(setting.usual) as client:
        job = await client.start(["tail", "/dev/zero"], limits=Limits(memory=32 * MIB, pids=20))
        tell("oom", told(await client.wait(job.id)))
        tell("limits", (await client.query(job.id)).limits == Limits(memory=32 * MIB, pids=20))
    async with setting.client(setting.strict) as client:
        tell("refused", await refusal(client.start(["true"], limits=Limits(memory=32 * MIB))))


trio.run(main, Setting(**json.loads(sys.argv[1])))
