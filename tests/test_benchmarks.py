"""Benchmarks that take any run still run; what they measure is no matter of a test."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "run", ["funmatch-seg-matching", "funmatch-det-supervised", "imitation-kitti-i"]
)
def test_the_step_of_a_run_is_measured(run):
    command = [sys.executable, "-m", "benchmarks.step", run, "--scale", "smoke", "--steps", "1"]
    done = subprocess.run(
        [*command, "--peak", "1"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = re.search(r"([\d.]+) images a second; ([\d,.]+) GFLOP", done.stdout)
    assert float(found[1]) > 0 and float(found[2].replace(",", "")) > 1
    assert run in done.stdout and "% of 1" in done.stdout
