"""Owns `just bench-plot`: draws the scaling rows of a kept run as a PNG, which is for the README."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

from tests.bench.setting import ROOT

mpl.use("Agg")  # no screen is needed

from matplotlib import pyplot as plt  # after the choice above

RESULTS = ROOT / "bench-results"


def main() -> None:
    """Draw the newest run, or the one that is named."""
    parser = argparse.ArgumentParser(prog="just bench-plot", description=__doc__)
    parser.add_argument(
        "run", type=Path, nargs="?", help="the run's JSON (default: the newest with scaling rows)"
    )
    parser.add_argument("--out", type=Path, help="the picture (default: beside the JSON)")
    asked = parser.parse_args()
    path = asked.run or newest()
    if path is None:
        sys.exit("bench-plot: there is no run with scaling rows yet: `just bench` makes one.")
    run = json.loads(path.read_text())
    if not run["series"]:
        sys.exit(f"bench-plot: {path} has no scaling rows: it was a run of --only some others.")
    out = asked.out or path.with_suffix(".png")
    draw(run, out)
    sys.stdout.write(f"{os.path.relpath(out)}\n")


def newest() -> Path | None:
    """The newest kept run that has something to draw."""
    for path in sorted(RESULTS.glob("*.json"), reverse=True):
        if json.loads(path.read_text())["series"]:
            return path
    return None


def draw(run: dict[str, Any], out: Path) -> None:
    """Draw each series of a run side by side into a file."""
    figure, axes = plt.subplots(1, len(run["series"]), figsize=(5 * len(run["series"]), 3.8), squeeze=False)
    for axis, series in zip(axes[0], run["series"], strict=True):
        for label, points in series["lines"].items():
            axis.plot(*zip(*points, strict=True), marker="o", label=label)
        axis.set(title=series["name"], xlabel=series["x"], ylabel=series["y"])
        if len({x for points in series["lines"].values() for x, _ in points}) < 10:
            axis.set_xscale("log")  # few sizes, each a multiple of the one before
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        if len(series["lines"]) > 1:
            axis.legend()
    figure.tight_layout()
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
