"""Owns what `run` does once its job is there: it follows the output, and tells what came of the job."""

from wire.jobs import JobStatus

from ..blocking import Client
from ..errors import CutError
from . import ending, streams
from .exits import EXPECTED, OutputError, of_job, sentence
from .flags import Where
from .follow import copy
from .waiting import Watch


def attend(client: Client, job: JobStatus, where: Where) -> int:
    """Show a job's output, say why it ended, and return the exit code that passes on how.

    Raises:
        OutputError: our own output has nowhere to go; the job was stopped.
        CutError: what became of the job is not known.
    """
    try:
        with client.stream(job.id, gaps="yield") as output, Watch(where, job.id) as watch:
            copy(output, watch)
    except OutputError:
        _stop(client, job.id)
        raise
    except EXPECTED as error:  # a refusal too: our certificate may have been revoked meanwhile
        raise CutError(f"{sentence(error)} What became of job {job.id} is not known.") from error
    if said := ending.sentence(output.job):
        streams.complain(said)
    return of_job(output.job)


def _stop(client: Client, job_id: str) -> None:
    """Stop a job whose output has nowhere to go; what is wrong with that output is told by who called."""
    try:
        client.stop(job_id)
    except EXPECTED as error:
        streams.complain(f"job {job_id} could not be stopped: {sentence(error)}")
