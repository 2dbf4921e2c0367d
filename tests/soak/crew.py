"""Owns the mixture of a phase: its clients, and the trouble that they and the server get."""

import os
import random
import signal
from pathlib import Path

import trio

from certs.authority import issue
from tests.harness import Server
from tests.proxy import proxy
from tests.soak.actor import Actor
from tests.soak.callers import open_caller
from tests.soak.commander import Commander
from tests.soak.world import World
from tests.tlshelp import SERVER_NAMES, authority, key, save

#: The clients: kind, identity, transport, whether they go through a proxy, and how many tasks share each.
CLIENTS = (
    ("trio", "admin", "", False, 3),
    ("trio", "admin", "wss://", True, 2),
    ("blocking", "admin", "", True, 1),
    ("blocking", "admin", "wss://", False, 1),
    ("trio", "user", "", True, 2),
    ("trio", "user", "wss://", False, 1),
    ("blocking", "user", "wss://", True, 1),
)
#: Seconds for which a client tries to come back.
PATIENCE = 60.0


class Crew:
    """The clients of one server.

    Args:
        server: the server.
        world: what they share.
        seed: of what they do.
    """

    def __init__(self, server: Server, world: World, seed: str) -> None:
        self._server = server
        self._world = world
        self._seed = seed

    def chance(self, name: str) -> random.Random:
        """Random numbers of one of them."""
        return random.Random(f"{self._seed}-{name}")  # noqa: S311  # they are to come again

    def start(self, nursery: trio.Nursery) -> None:
        """Start them; each ends after its last step, once the world is over."""
        for number in range(len(CLIENTS)):
            nursery.start_soon(self._client, number)
        nursery.start_soon(Commander(self._server, self.chance("command"), self._world).run)

    async def _client(self, number: int) -> None:
        """One client, and the tasks that share it."""
        kind, identity, scheme, cut, lanes = CLIENTS[number]
        server = self._server
        with proxy(server.port) as between:
            address = scheme + (between.address if cut else server.address)
            async with (
                open_caller(kind, address, server.certs, identity, PATIENCE) as caller,
                trio.open_nursery() as nursery,
            ):
                for lane in range(lanes):
                    name = f"{identity}-{kind}-{number}.{lane}"
                    actor = Actor(
                        name, identity, self.chance(name), caller, between if cut else None, self._world
                    )
                    nursery.start_soon(actor.run)

    async def trouble(self, seconds: float) -> None:
        """For so long, reload the server now and then, and in some phases kill its spawner."""
        await trio.lowlevel.checkpoint()
        chance = self.chance("trouble")
        kill = chance.choice((0.3, 0.6, 2, 2)) * seconds
        began = trio.current_time()
        while (passed := trio.current_time() - began) < seconds:
            if passed > kill:
                kill = float("inf")
                self._world.model.spawner_kills += 1
                os.kill(self._server.spawner_pid, signal.SIGKILL)
            else:
                if chance.random() < 0.5:
                    renew(self._server.certs, whole=chance.random() < 0.7)
                self._server.process.send_signal(signal.SIGHUP)
            await trio.sleep(chance.uniform(0.1, 2))


def renew(certs: Path, *, whole: bool) -> None:
    """Give the server a new certificate, or one that it must not take."""
    if whole:
        made = issue(authority(), "server", purpose="server", san=SERVER_NAMES, key=key("server"))
        save(certs, server=made)
    else:
        (certs / "server.crt").write_text("no certificate")
