"""Owns what a run finds: rows, each a figure of ours beside another, what was promised, and the table."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

HEADINGS = ("", "ours", "", "peer or limit", "", "ratio", "promise", "")
#: Columns of figures, which are set to the right.
FIGURES = (1, 4, 5)


@dataclass(frozen=True, slots=True)
class Promise:
    """What the project promises of a row.

    Args:
        of: what is promised: our figure, or its ratio to the other one.
        sign: on which side of the bound it has to be.
        bound: in the row's unit, or as a ratio.
        goal: whether it is only hoped for.
    """

    of: Literal["figure", "ratio"]
    sign: Literal[">=", "<="]
    bound: float
    goal: bool = False

    def __str__(self) -> str:
        times = " x" if self.of == "ratio" else ""
        return f"{'goal ' if self.goal else ''}{self.sign} {self.bound:g}{times}"

    def kept(self, row: "Row") -> bool | None:
        """Whether a row is as promised; None if there is nothing to compare it with."""
        value = row.ratio if self.of == "ratio" else row.ours
        if value is None:
            return None
        return value >= self.bound if self.sign == ">=" else value <= self.bound


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Args:
        name: what was measured.
        ours: our figure, in ``unit``.
        unit: of both figures.
        peer: whose the other figure is, or what it is; empty for none.
        theirs: the other figure; None if the peer is missing.
        promise: what the project promises; None for nothing.
        note: what the figures do not say, such as why a peer is missing.
    """

    name: str
    ours: float
    unit: str
    peer: str = ""
    theirs: float | None = None
    promise: Promise | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Our figure divided by the other one."""
        return self.ours / self.theirs if self.theirs else None

    @property
    def kept(self) -> bool | None:
        """Whether it is as promised; None if nothing is promised, or the peer is missing."""
        return None if self.promise is None else self.promise.kept(self)

    @property
    def verdict(self) -> str:
        """That in a word, and the note."""
        word = {True: "kept", False: "missed", None: "not measured" if self.promise else ""}[self.kept]
        return "; ".join(part for part in (word, self.note) if part)

    def cells(self) -> tuple[str, ...]:
        """What is printed of it, by column."""
        theirs = "" if not self.peer else "missing" if self.theirs is None else number(self.theirs)
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        promise = "" if self.promise is None else str(self.promise)
        return self.name, number(self.ours), self.unit, self.peer, theirs, ratio, promise, self.verdict

    def record(self) -> dict[str, Any]:
        """What is kept of it."""
        return {
            "name": self.name,
            "ours": self.ours,
            "unit": self.unit,
            "peer": self.peer,
            "theirs": self.theirs,
            "ratio": self.ratio,
            "promise": None if self.promise is None else str(self.promise),
            "kept": self.kept,
            "note": self.note,
        }


@dataclass(frozen=True, slots=True)
class Series:
    """A scaling row: one figure over another, for the picture.

    Args:
        name: the picture's title.
        x, y: what the axes say, units included.
        lines: for each label, its points.
    """

    name: str
    x: str
    y: str
    lines: dict[str, list[tuple[float, float]]]


@dataclass(slots=True)
class Findings:
    """What a benchmark found."""

    rows: list[Row] = field(default_factory=list)
    series: list[Series] = field(default_factory=list)


def number(value: float) -> str:
    """A figure with the digits that count."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def median(figures: Sequence[float] | None) -> float | None:
    """The median, or None for a peer that was missing."""
    return statistics.median(figures) if figures else None


def render(rows: Sequence[Row]) -> str:
    """The table as text."""
    lines = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    text = ""
    for line in lines:
        cells = [
            cell.rjust(width) if column in FIGURES else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        text += "  ".join(cells).rstrip() + "\n"
    return text
