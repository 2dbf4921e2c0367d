"""Some random programs a run; `just race` runs as many as there is time for."""

from pathlib import Path

import pytest
import trio

from tests.harness import SLOW
from tests.race.programs import run_program
from tests.race.seeds import seed_scheduler

pytestmark = pytest.mark.host


@pytest.mark.parametrize("seed", range(6 if SLOW == 1 else 2))
def test_a_random_program_agrees_with_its_model(tmp_path: Path, shared_certificates: Path, seed: int) -> None:
    seed_scheduler(seed)
    trio.run(run_program, seed, shared_certificates, tmp_path)
