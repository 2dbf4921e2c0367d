"""Owns what a client of either kind is to a test: all of it that does not depend on how one is called."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from client import blocking, trio_client
from wire.jobs import JobStatus
from wire.messages import Hello


class AnyKind(ABC):
    """A client of either kind; the methods are those of the Trio one."""

    def __init__(self, client: blocking.Client | trio_client.Client) -> None:
        self._client = client

    @property
    def hello(self) -> Hello:
        return self._client.hello

    @abstractmethod
    async def _job(self, name: str, *args: Any, **options: Any) -> JobStatus:
        """Call a method whose answer is a job."""

    async def start(self, argv: Sequence[str | bytes], **options: Any) -> JobStatus:
        return await self._job("start", argv, **options)

    async def stop(self, job_id: str, **options: Any) -> JobStatus:
        return await self._job("stop", job_id, **options)

    async def query(self, job_id: str) -> JobStatus:
        return await self._job("query", job_id)

    async def wait(self, job_id: str) -> JobStatus:
        return await self._job("wait", job_id)

    async def remove(self, job_id: str) -> JobStatus:
        return await self._job("remove", job_id)
