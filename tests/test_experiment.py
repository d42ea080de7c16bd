"""From a run's name to its files, on a tree of a few tiny stills: teacher, then students."""

import dataclasses
import json
import textwrap
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from kdlib import checkpoint, experiment, runtime, unlabelled
from kdlib.config import Method, Subset, load_run
from kdlib.data.loader import DataError
from kdlib.teacher import TeacherError
from kdlib.unlabelled import SMOKE_DATA, MissingError

PARAMS = """
scale: sample
seeds: [0]
runs:
  toy-teacher:
    data:
      layout: bdd100k
      root: tree
      size: [24, 40]
      labelled: {split: train, take: [0, 8], draw: 6}
      tune: {split: train, take: [8, 12]}
      report: {split: val}
    model: {architecture: pspnet, blocks: [1, 1], width: 4, output_stride: 4, stem: small}
    method: {name: supervised, class_weights: inverse-sqrt}
    schedule: {steps: 30, batch: 4, lr: 2.0e-2, workers: 0, precision: float32}
  toy-distil:
    extends: toy-teacher
    teacher: toy-teacher
    method: {name: distil}
    schedule: {steps: 4}
  toy-matching:
    extends: toy-distil
    method: {name: matching}
    data: {unlabelled: [{split: test}]}
  toy-further:
    extends: toy-teacher
    init: toy-teacher
    schedule: {steps: 0}
scales:
  smoke: {common: {schedule: {steps: 2}}}
"""


def write_stills(root, split: str, count: int, first: int) -> None:
    images, masks = root / "images/10k" / split, root / "labels/sem_seg/masks" / split
    images.mkdir(parents=True)
    for number in range(first, first + count):
        label = np.zeros((48, 80), np.uint8)
        x = 8 * (number % 5)
        label[12:36, x : x + 40] = 1 + number % 2
        colours = np.array([[60, 60, 60], [40, 40, 220], [220, 60, 40]], np.uint8)
        name = f"{number:08x}-{number:08x}"
        cv2.imwrite(str(images / f"{name}.jpg"), colours[label])
        if split != "test":
            masks.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(masks / f"{name}.png"), label)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    root = tmp_path_factory.mktemp("repository")
    (root / "dvc.yaml").touch()
    (root / "params.yaml").write_text(textwrap.dedent(PARAMS))
    for split, count, first in (("train", 12, 0), ("val", 5, 20), ("test", 4, 40)):
        write_stills(root / "tree", split, count, first)
    return root


@pytest.fixture(autouse=True)
def inside(repository, monkeypatch):
    monkeypatch.chdir(repository)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def teacher(repository):
    """The finished teacher: its run, and what training and scoring gave."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        run = load_run("toy-teacher")
        parts = experiment.prepare(run)
        trained = experiment.fit(parts)
        scores = experiment.score(parts)
        parts.resume.mkdir(parents=True)  # as a longer run leaves it
        experiment.finish(parts, trained, scores)
        assert parts.resume.exists()  # until the record is there, too
        experiment.forget(parts)
    return run, parts, trained, scores


def test_a_finished_run_leaves_weights_notes_and_history(teacher, repository):
    run, parts, trained, scores = teacher
    folder = repository / run.folder
    tensors, notes = checkpoint.load(folder / "model.safetensors")
    assert all(torch.equal(tensors[key], value) for key, value in trained.weights.items())
    assert notes["settings_hash"] == run.settings_hash()
    assert notes["score"] == scores["val"]["miou"]
    assert (folder / "history.csv").read_text().startswith("step,lr,cross_entropy")
    assert not parts.resume.exists()
    assert len(parts.labelled) == 6 and len(parts.report) == 5
    facts = experiment.facts(parts, trained, scores)
    assert json.loads(json.dumps(facts)) == facts
    assert (facts["samples_seen"], facts["labels"], facts["images"]) == (120, 6, 6)
    assert "agreement" not in facts["metrics"]["val"]


@pytest.mark.parametrize(("name", "images"), [("toy-distil", 6), ("toy-matching", 10)])
def test_a_student_learns_from_the_teacher_and_is_compared_with_it(teacher, name, images):
    parts = experiment.prepare(load_run(name))
    assert len(parts.source) == images
    trained = experiment.fit(parts)
    scores = experiment.score(parts)
    assert {row["matching_weighted"] for row in trained.history} != {0.0}
    assert 0 < scores["val"]["agreement"]["kl"] < 5
    # the cell run again: the same result, not a longer training
    again = experiment.fit(parts)
    assert again.history == trained.history
    assert all(torch.equal(again.weights[key], value) for key, value in trained.weights.items())


def test_a_run_may_start_from_anothers_weights(teacher):
    _, _, trained, scores = teacher
    parts = experiment.prepare(load_run("toy-further"))
    unchanged = experiment.fit(parts)  # no step at all
    assert unchanged.history == []
    assert all(torch.equal(unchanged.weights[key], v) for key, v in trained.weights.items())
    assert experiment.score(parts)["val"] == scores["val"]


def test_seeds_change_weights_and_draws_and_settings_change_the_resume_point(teacher):
    parts = [experiment.prepare(load_run("toy-teacher", seed=seed)) for seed in (0, 0, 1)]
    weights = [part.network.classifier.weight for part in parts]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert parts[0].labelled == parts[1].labelled != parts[2].labelled
    assert parts[0].data_hash == parts[2].data_hash
    assert parts[0].samples_hash == parts[1].samples_hash != parts[2].samples_hash
    other = dataclasses.replace(parts[0].run.schedule, lr=1e-2)
    changed = experiment.prepare(dataclasses.replace(parts[0].run, schedule=other))
    folders = [part.resume for part in (*parts, changed)]
    assert folders[0] == folders[1] and len(set(folders)) == 3


def test_other_bytes_of_a_still_change_hash_and_resume_point(teacher):
    run = load_run("toy-teacher")
    before = experiment.prepare(run)
    path = before.labelled[0].image
    content = path.read_bytes()
    try:
        cv2.imwrite(str(path), np.full((48, 80, 3), 9, np.uint8))
        after = experiment.prepare(run)
    finally:
        path.write_bytes(content)
    assert after.samples_hash != before.samples_hash and after.resume != before.resume
    assert experiment.prepare(run).resume == before.resume


def test_a_teacher_whose_weights_changed_is_refused(teacher, repository):
    run, _, trained, _ = teacher
    path = repository / run.folder / "model.safetensors"
    _, notes = checkpoint.load(path)
    wrong = {key: torch.zeros_like(value) for key, value in trained.weights.items()}
    try:
        checkpoint.save(path, wrong, notes)
        with pytest.raises(TeacherError, match="toy-teacher, seed 0"):
            experiment.prepare(load_run("toy-distil"))
    finally:
        checkpoint.save(path, trained.weights, notes)


def test_what_an_earlier_stage_makes_is_missed_by_name(teacher):
    cure = "kdlib run toy-teacher --scale sample --seed 5"
    with pytest.raises(MissingError, match=cure):
        experiment.prepare(load_run("toy-distil", seed=5))
    # before it trains, even if only its scores ask for the teacher
    method = Method("supervised")
    alone = dataclasses.replace(load_run("toy-distil", seed=5), method=method)
    with pytest.raises(MissingError, match=cure):
        experiment.prepare(alone)
    run = load_run("toy-teacher")
    gone = dataclasses.replace(run, data=dataclasses.replace(run.data, root="nowhere"))
    with pytest.raises(MissingError, match="nowhere: no such folder"):
        experiment.prepare(gone)


def test_smoke_data_are_rendered_once_and_again_for_another_recipe(repository, monkeypatch):
    made = []

    def render(command, **options):
        made.append(command)
        draft = Path(command[command.index("--out") + 1])
        (draft / str(len(made))).mkdir(parents=True)

    monkeypatch.setattr(unlabelled.subprocess, "run", render)
    run = load_run("toy-teacher", scale="smoke")
    for _ in range(2):
        unlabelled.require_data(run, repository)
    assert len(made) == 1 and (repository / SMOKE_DATA / "1").is_dir()
    (repository / SMOKE_DATA / ".recipe").write_text("of an older version")
    unlabelled.require_data(run, repository)
    assert len(made) == 2 and not (repository / SMOKE_DATA / "1").exists()


def test_at_smoke_scale_what_is_missing_or_outdated_is_made_on_the_spot(repository, monkeypatch):
    monkeypatch.setattr(unlabelled, "_render_smoke_data", lambda root: None)
    run = load_run("toy-distil", scale="smoke")
    path = repository / load_run("toy-teacher", scale="smoke").folder / "model.json"
    experiment.prepare(run)
    notes, made = json.loads(path.read_text()), path.stat().st_mtime_ns
    experiment.prepare(run)
    assert path.stat().st_mtime_ns == made
    path.write_text(json.dumps(notes | {"settings_hash": "of other settings"}))
    experiment.prepare(run)
    assert json.loads(path.read_text()) == notes


@pytest.mark.parametrize("part", ["labelled", "tune", "unlabelled"])
def test_nothing_is_learnt_or_chosen_on_the_reported_split(teacher, part):
    run = load_run("toy-matching")
    leak = Subset("val", take=(0, 2))
    value = (leak,) if part == "unlabelled" else leak
    data = dataclasses.replace(run.data, **{part: value})
    with pytest.raises(DataError, match="2 reported stills"):
        experiment.prepare(dataclasses.replace(run, data=data))


def test_a_processor_is_told_apart_from_others_of_the_same_name():
    name = runtime.device_name(torch.device("cpu"))
    assert name.endswith(f"{torch.get_num_threads()} threads")
    assert torch.backends.cpu.get_cpu_capability() in name
    facts = Path("/proc/cpuinfo")
    if facts.is_file() and "cpu family" in facts.read_text():
        assert "family" in name and "model" in name
