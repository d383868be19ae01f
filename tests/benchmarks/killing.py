"""kill -9 of a run's worker at twenty random moments: whether the run ends with the losses of one that was left alone.

python tests/benchmarks/killing.py [TIMES] [SEED]
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from random import Random

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from pico import save_pico  # noqa: E402
from run_steps import killed_at_random, losses, made, state, worked_off  # noqa: E402

from studio import runs  # noqa: E402
from studio.runs import State  # noqa: E402

LONG = {"most_steps": 400, "save_every": 1, "evaluate_every": 10}


def main(times: int, seed: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        os.environ["STUDIO_WORKSPACE"] = place
        model = save_pico(Path(place) / "pico")
        whole, killed = made(model, Path(place), **LONG), made(model, Path(place), **LONG)
        worked_off(whole)
        begun = killed_at_random(killed, Random(seed), times)
        told = [told.event for told in runs.events(runs.of(killed).folder)]
        again = sum(isinstance(event, runs.Started) for event in told)
        if state(killed) is not State.FINISHED:
            worked_off(killed)
        same = losses(killed) == losses(whole)
        print(f"{times} kills, {begun} of them while it learnt, {again} workers began; the same losses: {same}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
