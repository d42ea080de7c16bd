"""Benchmarks still run, and refuse to time forms that disagree; how long they take is no matter."""

import math
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import cv2
import pytest
import torch

from benchmarks import affinity, detection, lanes
from kdlib.metrics.detection import coco_map

ROOT = Path(__file__).resolve().parents[1]
NUMBER = r"([\d.e+-]+)"
QUICK = {
    affinity: ["--slow", "1", "--repeats", "1"],
    lanes: ["--pictures", "1", "--slow", "1", "--repeats", "1"],
    detection: ["--images", "8", "--repeats", "1"],
}


@pytest.fixture
def printed(monkeypatch, capsys):
    """Runs a benchmark on tiny inputs, returns what it prints, undoes what it sets globally."""
    monkeypatch.setattr(affinity, "CASES", (affinity.Case(2, 4, 8, (6, 8), 5),))
    threads = torch.get_num_threads(), cv2.getNumThreads()

    def run(module, *arguments: str) -> str:
        module.main([*QUICK[module], *arguments])
        return capsys.readouterr().out

    with torch.random.fork_rng(devices=[]):
        yield run
    torch.set_num_threads(threads[0])
    cv2.setNumThreads(threads[1])


def ratios(pattern: str, text: str) -> list[float]:
    """The numbers that the pattern finds, each of them what one time can be to another."""
    found = [float(number) for number in re.findall(pattern, text, re.MULTILINE)]
    assert all(0 < ratio < math.inf for ratio in found)
    return found


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


def test_losses_of_affinity_beside_loops(printed):
    text = printed(affinity)
    # pooling, two loops of the affinity, a loop of attention, soft targets and existence each
    assert len(ratios(rf"/ ours {NUMBER}", text)) == 6
    assert len(ratios(rf"{NUMBER} reads of", text)) == 2
    assert "channels last" in text and "masked" in text
    text = printed(affinity, "--quick", "--contiguous")
    assert len(ratios(rf"/ ours {NUMBER}", text)) == 5
    assert "contiguous" in text and "masked" not in text


def test_lane_scores_beside_plain_forms(printed):
    assert len(ratios(rf"  {NUMBER}$", printed(lanes))) == 5


def test_a_plain_pairing_with_more_lanes_on_one_side(monkeypatch):
    # the first takes less than it could, so that the second is a hit too
    table = [[0.7, 0.6, 0.0], [0.9, 0.1, 0.0]]
    monkeypatch.setattr(lanes, "plain_iou", lambda *_: table)
    assert lanes.plain_match([0, 1], [0, 1, 2]) == (2, 0, 1)
    monkeypatch.setattr(lanes, "plain_iou", lambda *_: list(zip(*table, strict=True)))
    assert lanes.plain_match([0, 1, 2], [0, 1]) == (2, 1, 0)


def own_figures(found, truth) -> list[float]:
    """What the reference gives, for it gives the same; it need not be installed for the tests."""
    scores = coco_map(found, truth, detection.CLASSES)
    return [scores[name] for name in detection.FIGURES + detection.RECALLS]


def test_precision_of_boxes_beside_the_reference(monkeypatch, printed):
    reference = detection.installed() or own_figures
    monkeypatch.setattr(detection, "installed", lambda: reference)
    text = printed(detection)
    assert "figures equal to" in text and "/ pycocotools" in text
    assert len(ratios(rf" +[\d.]+ +{NUMBER} +\d+$", text)) == 4


def test_precision_of_boxes_without_the_reference(monkeypatch, printed):
    monkeypatch.setitem(sys.modules, "pycocotools", None)  # as if it were not installed
    text = printed(detection)
    assert "pycocotools is not installed" in text and "pip install -e '.[bench]'" in text
    assert "equal" not in text
    assert len(ratios(rf" +[\d.]+ +{NUMBER} +\d+$", text)) == 3
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "pycocotools" in str(project["optional-dependencies"]["bench"])


@pytest.mark.parametrize(
    "module, form, wrong, refusal",
    [
        (affinity, "pooled_areas", torch.zeros(0, dtype=torch.bool), "areas differ"),
        (affinity, "masked", (torch.ones(4),) * 3, "loss: "),
        (affinity, "taken", (torch.ones(4),) * 3, "loss: "),
        (affinity, "plain_attention", torch.tensor(9.0), "attention: "),
        (affinity, "plain_soft_targets", torch.tensor(math.nan), "soft targets: .* form's nan"),
        (affinity, "plain_existence", torch.tensor(9.0), "existence: "),
        (lanes, "plain_iou", [[0.9]], "culane_iou "),
        (lanes, "plain_match", (0, 0, 0), r"culane_match: .* form's \(0, 0, 0\)"),
        (lanes, "plain_precision", math.nan, "llamas_average_precision "),
        (detection, "installed", lambda *_: [9.0] * 9, "coco_map "),
    ],
)
def test_forms_that_disagree_are_not_timed(monkeypatch, printed, module, form, wrong, refusal):
    monkeypatch.setattr(module, form, lambda *_, **__: wrong)
    with pytest.raises(SystemExit, match=refusal):
        printed(module)
