"""Owns the seed of Trio's scheduler: in which order tasks run that could run at once."""

import random
from typing import cast

import hypothesis  # noqa: F401  # makes Trio's scheduler a matter of its random numbers alone
from trio._core import _run


def seed_scheduler(seed: int) -> None:
    """Let the next run of Trio order its tasks as this seed says.

    Raises:
        AssertionError: this Trio cannot be seeded.
    """
    assert vars(_run)["_ALLOW_DETERMINISTIC_SCHEDULING"], "Hypothesis has not made Trio's scheduler seedable"
    cast("random.Random", vars(_run)["_r"]).seed(seed)
