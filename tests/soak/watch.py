"""Owns what is under way: each operation with its deadline, the log of them, and the word when one hangs."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

#: Operations that a report tells.
TOLD = 60
#: What waits for no job has so long, in seconds: a client that looks again only to ask whether its server is
#: there, after 20, must not pass for a slow one.
PROMPT = 15.0


@dataclass(eq=False)
class Operation:
    """Something that is to end, or to get on."""

    actor: str
    what: str
    began: float
    moved: float
    #: Seconds in which it must end, or get on.
    patience: float
    #: The bytes that it has got.
    bytes: int = 0

    def touch(self, count: int = 0) -> None:
        """It has got on."""
        self.moved = time.monotonic()
        self.bytes += count


class Watch:
    """The operations under way, and the log of those that have ended.

    Args:
        patience: seconds in which each must end, or get on.
        path: the file that each is written to.
    """

    def __init__(self, patience: float, path: Path) -> None:
        self.patience = patience
        self.count = 0
        #: Bytes that followers have checked.
        self.bytes = 0
        self._began = time.monotonic()
        self._under_way: dict[Operation, None] = {}
        self._last: deque[str] = deque(maxlen=TOLD)
        self._file: TextIO = path.open("w")

    @contextmanager
    def doing(self, actor: str, what: str, *, prompt: bool = False) -> Iterator[Operation]:
        """Something is under way for as long as the block; what is prompt waits for no job."""
        now = time.monotonic()
        patience = min(PROMPT, self.patience) if prompt else self.patience
        operation = Operation(actor, what, now, now, patience)
        self._under_way[operation] = None
        outcome = "ok"
        try:
            yield operation
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"
            raise
        finally:
            del self._under_way[operation]
            self.count += 1
            self.bytes += operation.bytes
            self._note(operation, outcome)

    def _note(self, operation: Operation, outcome: str) -> None:
        began, took = operation.began - self._began, time.monotonic() - operation.began
        got = f", {operation.bytes} bytes" if operation.bytes else ""
        line = f"{began:9.3f} +{took:.3f} {operation.actor}: {operation.what}: {outcome[:300]}{got}"
        self._last.append(line)
        self._file.write(line + "\n")

    def late(self) -> str | None:
        """What neither ends nor gets on, in a sentence."""
        now = time.monotonic()
        late = [each for each in self._under_way if now - each.moved > each.patience]
        if not late:
            return None
        some = "; ".join(f"{each.actor}: {each.what}" for each in late[:5])
        return f"{len(late)} operations have not got on for {late[0].patience:g} s: {some}"

    def tell(self) -> list[str]:
        """What is under way, and the last operations that have ended."""
        now = time.monotonic()
        return [
            "under way:",
            *(
                f"  {each.actor}: {each.what}, for {now - each.began:.1f} s, {each.bytes} bytes, "
                f"the last {now - each.moved:.1f} s ago"
                for each in self._under_way
            ),
            "the last that ended:",
            *(f"  {line}" for line in self._last),
        ]

    def close(self) -> None:
        """Write the last lines."""
        self._file.close()
