"""Owns which jobs there are: by id, by the beginning of one, and in the order of their starts."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from operator import attrgetter
from typing import Final

from wire.errors import ErrorCode, RequestError

from .ids import Ids
from .job import Job

_NUMBER = attrgetter("number")
#: How much of its instance's name a cursor has, in characters.
_MARK_LENGTH: Final = 8
#: What any server gives as a cursor; those that knew of no instance gave a number alone.
_CURSOR: Final = re.compile(rf"([1-9][0-9]{{0,18}})(?::([0-9a-f]{{{_MARK_LENGTH}}}))?")


class Catalog:
    """The jobs that were started and are not forgotten.

    Args:
        instance: a UUID that names this life of the server, to which pages of the list belong.
    """

    def __init__(self, instance: str) -> None:
        self._mark = instance[:_MARK_LENGTH]
        self._jobs: dict[str, Job] = {}
        self._order: list[Job] = []  # the same, by number
        self._ids = Ids()
        self._count = 0

    def __iter__(self) -> Iterator[Job]:
        return iter(tuple(self._order))

    def __contains__(self, id_: object) -> bool:
        return id_ in self._jobs

    def add(self, job: Job) -> None:
        """Add a job that was just started, and give it its number."""
        self._count += 1
        job.number = self._count
        self._jobs[job.id] = job
        self._order.append(job)
        self._ids.add(job.id)

    def forget(self, id_: str) -> Job:
        """Take out the job with this id, and return it."""
        self._ids.discard(id_)
        job = self._jobs.pop(id_)
        del self._order[bisect_left(self._order, job.number, key=_NUMBER)]
        return job

    def cursor(self, job: Job) -> str:
        """What `after` takes to go on behind a job, also once that has gone."""
        return f"{job.number}:{self._mark}"

    def after(self, cursor: str | None) -> Iterator[Job]:
        """Every job, or those behind a cursor.

        It costs what is taken of it, however many jobs there are; take it before the next checkpoint.

        Raises:
            RequestError: that is no cursor of ours.
        """
        number = 0 if cursor is None else self._number(cursor)
        begin = bisect_right(self._order, number, key=_NUMBER)
        return map(self._order.__getitem__, range(begin, len(self._order)))

    def _number(self, cursor: str) -> int:
        found = _CURSOR.fullmatch(cursor)
        if found is not None and found[2] != self._mark:
            reason = "list: that page is one of before the server's restart; begin the list again."
        elif found is None or int(found[1]) > self._count:
            reason = f"list: {cursor!r:.60} is no `next` of a page; begin the list again."
        else:
            return int(found[1])
        raise RequestError(ErrorCode.BAD_REQUEST, reason, field="after")

    def find(self, id_or_prefix: str) -> Job:
        """Return the job with this id, or the only one whose id begins so.

        Raises:
            RequestError: there is none, or more than one.
        """
        if id_or_prefix in self._jobs:
            return self._jobs[id_or_prefix]
        found = self._ids.beginning_with(id_or_prefix) if id_or_prefix else ()
        if not found:
            raise RequestError(
                ErrorCode.NOT_FOUND,
                f"There is no job with id {id_or_prefix!r:.60}; `worker-service list` shows those there are.",
            )
        if len(found) > 1:
            raise RequestError(
                ErrorCode.AMBIGUOUS,
                f"{len(found)} jobs have an id that begins with {id_or_prefix!r:.60}; give more.",
            )
        return self._jobs[self._ids[found[0]]]
