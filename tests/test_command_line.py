"""What the command line prints where something is wrong: one line and exit code 1."""

import pytest

from kdlib import experiment
from kdlib.__main__ import main
from kdlib.checkpoint import CheckpointError
from kdlib.data.layouts import LAYOUTS
from kdlib.data.loader import DataError
from kdlib.models import ModelError
from kdlib.teacher import TeacherError
from kdlib.training import TrainingError
from kdlib.unlabelled import MissingError

PARAMS = """
scale: sample
seeds: [0]
runs:
  toy:
    data:
      layout: camvid
      root: nowhere
      size: [24, 40]
      labelled: {split: train}
      report: {split: val}
    model: {architecture: pspnet}
    method: {name: supervised}
    schedule: {steps: 1, batch: 1, lr: 0.1, workers: 0, precision: float32}
scales: {}
"""


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "params.yaml").write_text(PARAMS)
    monkeypatch.chdir(tmp_path)


def test_a_missing_folder_is_one_line(capsys):
    assert main(["run", "toy"]) == 1
    told = capsys.readouterr().err.strip()
    assert told.startswith("error: ") and "nowhere: no such folder. `make data`" in told
    assert "\n" not in told


@pytest.mark.parametrize(
    "error", [MissingError, DataError, ModelError, TeacherError, TrainingError, CheckpointError]
)
def test_errors_of_the_library_are_one_line(error, monkeypatch, capsys):
    monkeypatch.setattr(experiment, "make", _raises(error("file: cause. Cure.")))
    assert main(["run", "toy"]) == 1
    assert capsys.readouterr().err == "error: file: cause. Cure.\n"


def test_errors_of_others_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(experiment, "make", _raises(RuntimeError("CUDA error")))
    with pytest.raises(RuntimeError, match="CUDA error"):
        main(["run", "toy"])


def test_help_names_every_layout(capsys):
    with pytest.raises(SystemExit):
        main(["data", "check", "--help"])
    told = capsys.readouterr().out
    assert all(name in told.replace("-\n", "-") for name in LAYOUTS)


def _raises(error):
    def make(run, keep):
        raise error

    return make
