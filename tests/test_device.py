"""Training on a device other than the CPU, tried on a stand-in: see `stand_in`."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAPER = (  # at full size, which here costs no more than at any other
    "funmatch-seg-matching",
    "funmatch-det-matching",
    "structured-pi-pa-ho",
    "imitation-kitti-id",
    "affinity-apollo-erfnet-intra",
)
SMOKE = (
    *PAPER,
    "funmatch-seg-supervised",
    "funmatch-det-supervised",
    "funmatch-det-matching-top",
    "structured-camvid-pi-pa",
    "imitation-kitti-i",
    "imitation-kitti-f",
    "imitation-kitti-g",
    "affinity-culane-erfnet-intra",
    "affinity-culane-resnet18-kd",
    "affinity-culane-enet-skd",
)
ASKS = "losses/moment_sums.py, _present"  # of 37 classes, which ones a batch has


@functools.cache
def waits(scale: str, runs: tuple[str, ...]) -> dict[str, list[str]]:
    done = subprocess.run(
        [sys.executable, "tests/stand_in.py", scale, *runs],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("scale", "runs", "run"),
    [("smoke", SMOKE, run) for run in SMOKE] + [("paper", PAPER, run) for run in PAPER],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_a_step_waits_for_the_device_only_to_see_which_of_many_classes_there_are(scale, runs, run):
    found = waits(scale, runs)[run]
    asked = [wait for wait in found if wait.startswith(ASKS)]
    assert found == asked
    # forwards only: middle and high level, of student and teacher
    assert sum(wait.endswith("rows") for wait in asked) == (4 if "apollo" in run else 0)
