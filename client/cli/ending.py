"""Owns what `run` says of an end that was no exit of the job's own, and what `stop` asks of one."""

from wire.jobs import CauseKind, JobStatus, Status

from .render import outcome, text


def sentence(job: JobStatus) -> str | None:
    """Say why a job ended; None for one that exited by itself, of which its exit code says all."""
    cause = job.cause
    if job.status is Status.EXITED and (cause is None or cause.kind is CauseKind.EXITED):
        return None
    if cause is None:  # of a newer server, whose word for it is better than none
        return f"job {job.id} ended ({outcome(job)})."
    by = f" by {text(cause.by)}" if cause.by else ""
    match cause.kind:
        case CauseKind.SIGNALED:
            also = f" ({text(cause.detail)})" if cause.detail else ""
            return f"job {job.id} was {outcome(job)}{also}."
        case CauseKind.STOPPED:
            why = "was stopped" + by * (not cause.detail)  # the server, of itself, tells why
        case CauseKind.OOM:
            why = "ran out of memory"
        case CauseKind.TIMEOUT:
            why = "was stopped at its timeout"
        case CauseKind.LOST:
            why = "was lost by the server"
        case _:  # a newer server's; its own word is better than none
            why = f"ended{by}, with cause {text(cause.kind)}"
    detail = f": {text(cause.detail)}" if cause.detail else ""
    return f"job {job.id} {why}{detail} ({outcome(job)})."


def was_over(job: JobStatus, asked: float | None) -> bool:
    """Whether a job that was to be stopped had ended before.

    Args:
        job: its final status.
        asked: when the stop was asked for, by the server's clock; None if that is not known.
    """
    if job.cause is not None and job.cause.kind is not CauseKind.STOPPED:
        return True
    return asked is not None and job.ended is not None and job.ended < asked
