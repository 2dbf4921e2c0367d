"""Owns what is asked over one connection after another, sans-IO: what to send now, and what never again.

A job, a page of a list and a start belong to one life of the server, which its hello names as `instance`.
After a restart the beginning of an id may fit another job, a page another list, and a start would run again.
"""

import copy
import dataclasses
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from wire.errors import Category, ErrorCode, ProtocolError, RequestError, WorkerServiceError
from wire.features import Feature
from wire.jobs import JobParams, JobStatus, ListParams, ListReply, StartParams, StopParams, StreamParams
from wire.messages import Hello

from .arguments import check_job_id
from .core import Answer, Params, job_of, page_of, result_of
from .errors import ClientError, UncertainStartError

#: Of a job that the server had before its restart, and of one that it may have had.
_RESTARTED: Final = "The server was restarted, its jobs are gone."
_MAYBE: Final = "The server was restarted since this client connected: if the job is of before, it is gone."
_ID_LENGTH: Final = 36  # of a UUID as text


class Asked:
    """A request, over as many connections as it takes.

    Args:
        method: what is asked for.
        params: its parameters; they may be changed between two connections.
    """

    def __init__(self, method: str, params: Params) -> None:
        self.method = method
        self.params = params
        self._sent = False
        self._instance: str | None = None

    def to(self, hello: Hello, features: frozenset[str]) -> Params:
        """What to send to a server that greeted so; call `sent` once that is done.

        Raises:
            RequestError, ClientError: it must not be sent to that one.
        """
        if self._sent and hello.instance != self._instance:
            self._move()
        return self._fit(hello, features)

    def sent(self, hello: Hello) -> None:
        """It was sent, so that it may have been done."""
        self._sent, self._instance = True, hello.instance

    def _move(self) -> None:
        """What to do where it was sent to the server before its restart, and may have been done."""

    def _fit(self, hello: Hello, features: frozenset[str]) -> Params:
        return self.params


class AboutJob(Asked):
    """A request about a job, by its id or the beginning of one."""

    def __init__(self, method: str, params: JobParams | StopParams | StreamParams) -> None:
        check_job_id(params.id)
        super().__init__(method, params)
        self._whole = len(params.id) == _ID_LENGTH
        #: Whether something of the job came already, beside which another one's must not come.
        self.begun = False

    def _move(self) -> None:
        # A whole id fits no other job, and may not have been asked for before the restart at all.
        if self.begun or not self._whole:
            raise RequestError(ErrorCode.NOT_FOUND, _RESTARTED)


class Pages(Asked):
    """A list, page by page. After a restart it begins again: all that was given before is gone."""

    def __init__(self) -> None:
        super().__init__("list", ListParams())
        self.last = False

    def take(self, result: dict[str, Any]) -> ListReply:
        """Read a page, and ask for the next one from now on.

        Raises:
            RemoteProtocolError: it makes no sense.
        """
        page = page_of(result)
        self.params = ListParams(page.next)
        self.last = page.next is None
        return page

    def _move(self) -> None:
        self.params = ListParams()


class Start(Asked):
    """A start, which has an id where the server knows what that means: then it can be repeated.

    Args:
        params: with an id.
        chosen: the caller chose the id, and cannot do without.
    """

    def __init__(self, params: StartParams, *, chosen: bool) -> None:
        super().__init__("start", params)
        self._start = params
        self._chosen = chosen
        #: Whether it was sent with its id, and a connection was cut since.
        self.uncertain = False
        self._has_id = False

    def cut(self) -> bool:
        """The connection that it was sent over was cut; say whether it may be sent again."""
        self.uncertain = self._has_id
        return self._has_id

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Within it, what goes wrong after a cut, and nonsense as an answer, is an UncertainStartError."""
        try:
            yield
        except UncertainStartError:
            raise
        except WorkerServiceError as error:
            nonsense = isinstance(error, ProtocolError) and self._sent and self._has_id
            if not (self.uncertain or nonsense):
                raise
            raise self._doubt(f"{error} Whether job {self._start.id} was started is not known.") from error

    def job(self, answer: Answer) -> JobStatus:
        """The job of an answer; to be asked for within `telling`.

        What became of the first, a refusal of the repeat tells only if it is of the start itself, and stays
        so: a server without room does not, nor one that fails, nor a code that came later.

        Raises:
            RequestError: the start was refused.
            RemoteProtocolError: the answer makes no sense.
        """
        try:
            return job_of(result_of(answer))
        except RequestError as error:
            if isinstance(error.code, ErrorCode) and error.category == Category.CORRECT:
                self.uncertain = False
            raise

    def _move(self) -> None:
        raise self._doubt(
            f"The server was restarted while job {self._start.id} was being started: the job may have run.",
            restarted=True,
        )

    def _fit(self, hello: Hello, features: frozenset[str]) -> Params:
        self._has_id = _takes_ids(hello, features)
        if self._has_id:
            return self._start
        if self.uncertain:
            self._move()
        if self._chosen:
            raise ClientError("This server is older than ids of a client's choice: leave the id out.")
        return dataclasses.replace(self._start, id=None)

    def _doubt(self, message: str, *, restarted: bool = False) -> UncertainStartError:
        return UncertainStartError(message, job_id=self._start.id, restarted=restarted)


def new_id(hello: Hello, features: frozenset[str]) -> str | None:
    """A new id for a job of the caller's; None where the server is older than that."""
    return str(uuid.uuid4()) if _takes_ids(hello, features) else None


def _takes_ids(hello: Hello, features: frozenset[str]) -> bool:
    return Feature.START_ID in features and hello.instance is not None


def result_after(answer: Answer, *, restarted: bool) -> dict[str, Any]:
    """An answer's result; a job that is not there may be one of before a restart that this client saw.

    Raises:
        RequestError: the server refused.
    """
    try:
        return result_of(answer)
    except RequestError as error:
        if not (restarted and error.code is ErrorCode.NOT_FOUND):
            raise
        told = copy.copy(error)
        told.message = f"{error.message} {_MAYBE}"
        told.args = (told.message,)
        raise told from None
