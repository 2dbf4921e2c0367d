"""Owns what `stream` of both clients takes, beside the job's id, and how it is checked."""

from typing import Final, Literal, TypeAlias, TypedDict, Unpack

from wire.jobs import StreamParams

#: What becomes of bytes that cannot be had: an exception, or a piece that says so.
Gaps: TypeAlias = Literal["raise", "yield"]
_GAPS: Final = ("raise", "yield")


class StreamOptions(TypedDict, total=False):
    """Which part of a job's output is wanted; at most one of the first four says where it begins."""

    #: The byte of its log to begin at: 0 unless told otherwise.
    offset: int
    #: Begin with so many of the last bytes.
    tail_bytes: int | None
    #: Begin with so many of the last lines.
    tail_lines: int | None
    #: Begin with what was printed at this Unix time or later, by the server's clock.
    since: float | None
    #: Whether to go on to the job's end, as is the default, rather than end where its output does now.
    follow: bool
    #: 1 for stdout alone, 2 for stderr alone; both if None.
    stream: int | None


def stream_params(job_id: str, gaps: Gaps, **options: Unpack[StreamOptions]) -> StreamParams:
    """The parameters of ``stream``.

    Raises:
        TypeError: there is no such option.
        ValueError: ``gaps`` is none of its values.
    """
    if gaps not in _GAPS:
        raise ValueError(f"gaps must be 'raise' or 'yield', not {gaps!r}")
    return StreamParams(job_id, **options)
