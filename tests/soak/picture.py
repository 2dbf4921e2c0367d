"""Owns the soak's picture and its table: what was sampled, over time and for each phase."""

import csv
import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # no screen is needed

from matplotlib import pyplot as plt  # after the choice above

from tests.soak.samples import Sample

#: What is drawn: a title, and the fields of a sample that it shows.
PANELS = (
    ("resident memory, MiB", ("memory",)),
    ("held by the server", ("descriptors", "threads", "cgroups", "jobs")),
    ("processors used by the server", ("cpu",)),
    ("longest query of another client, ms", ("wait",)),
)
COLOURS = ("C0", "C1", "C2", "C3")
#: The names of so many phases find room.
NAMED = 24
COLUMNS = (
    "phase",
    "jobs",
    "operations",
    "MB checked",
    "MiB at start, at most, at rest",
    "descriptors, threads at rest",
    "CPU at most",
    "query, ms: median, most",
    "longest round of the loop, CPU ms",
)
HEAD = f"| {' | '.join(COLUMNS)} |\n{'| --- ' * len(COLUMNS)}|"


def draw(path: Path, names: Sequence[str], out: Path) -> None:
    """Draw a file of samples.

    Args:
        path: as `samples.write` makes it.
        names: the phases' names, by their number.
        out: the picture.
    """
    with path.open() as file:
        rows = list(csv.DictReader(file))
    begins: dict[str, float] = {}
    for row in rows:
        begins.setdefault(row["phase"], float(row["seconds"]))
    figure, axes = plt.subplots(len(PANELS), 1, figsize=(11, 11), sharex=True, squeeze=False)
    for axis, (title, fields) in zip(axes[:, 0], PANELS, strict=True):
        for field, colour in zip(fields, COLOURS, strict=False):
            for phase in begins:  # a line each, as nothing was sampled between them
                drawn = [row for row in rows if row["phase"] == phase and row[field]]
                axis.plot(*([float(row[name]) for row in drawn] for name in ("seconds", field)), color=colour)
            axis.plot([], [], color=colour, label=field)
        axis.set(title=title)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        if len(fields) > 1:
            axis.legend(loc="upper left", fontsize=8)
    axes[-1, 0].set(xlabel="seconds")
    for phase, begin in begins.items():
        for axis in axes[:, 0]:
            axis.axvline(begin, color="grey", alpha=0.3)
        if len(begins) <= NAMED:
            axes[0, 0].text(begin, 0, names[int(phase)], rotation=90, fontsize=7, va="bottom")
    figure.tight_layout()
    figure.savefig(out, dpi=100)
    plt.close(figure)


def row(
    name: str,
    counts: Sequence[int],
    samples: Sequence[Sample],
    rest: Sequence[int],
    round_ms: float | None,
) -> str:
    """A phase's line of the table.

    Args:
        name: the phase.
        counts: jobs, operations, and bytes checked.
        samples: taken in it.
        rest: MiB at the start, at most and at rest, descriptors and threads at rest; nothing if it had none.
        round_ms: the longest round of the event loop, in ms of processor time; None if that is not known.
    """
    jobs, operations, size = counts
    waits = [each.wait for each in samples if each.wait is not None] or [0.0]
    memory = ", ".join(map(str, rest[:3])) or "-"
    held = ", ".join(map(str, rest[3:])) or "-"
    cpu = max((each.cpu for each in samples), default=0)
    return (
        f"| {name} | {jobs} | {operations} | {size / 1e6:.0f} | {memory} | {held} | {cpu:.0%} "
        f"| {statistics.median(waits):.0f}, {max(waits):.0f} | {'-' if round_ms is None else round_ms} |"
    )
