"""What a run is made ready from: weights of networks for other classes, and hashes of stills."""

import dataclasses
import hashlib
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision

from kdlib import checkpoint, config, files, models, preparing, unlabelled
from kdlib.data import loader
from kdlib.data.layouts.sample import LayoutError, Sample
from kdlib.models import weights
from kdlib.models.outputs import ModelError


def test_weights_for_other_classes_leave_the_classifiers_as_drawn(tmp_path):
    shape = dict(blocks=[1, 1], width=4, output_stride=4, stem="small")
    before, after = (models.build("pspnet", classes, **shape) for classes in (19, 11))
    drawn = {key: value.clone() for key, value in after.state_dict().items()}
    tensors = preparing._with_new_classes(before.state_dict(), after, 19, 11)
    checkpoint.fit(after, tensors, tmp_path)
    kept = {key for key, value in after.state_dict().items() if torch.equal(value, drawn[key])}
    scorers = {"classifier.weight", "classifier.bias", "aux_head.2.weight", "aux_head.2.bias"}
    assert scorers <= kept and "backbone.conv1.weight" not in kept
    for key in set(drawn) - scorers:
        assert torch.equal(after.state_dict()[key], before.state_dict()[key])
    other = models.build("pspnet", 11, **shape | {"width": 8})
    with pytest.raises(checkpoint.CheckpointError, match="another network"):
        tensors = preparing._with_new_classes(before.state_dict(), other, 19, 11)
        checkpoint.fit(other, tensors, tmp_path)


def test_a_detector_takes_weights_of_other_classes():
    """Rows for the background and for the boxes of each class go with the classes."""
    small = {"blocks": (1, 1, 1, 1), "width": 8, "rpn_channels": 8}
    before, after = (models.build("rcnn-r50", classes, **small) for classes in (20, 3))
    there = before.state_dict()
    tensors = preparing._with_new_classes(there, after, 20, 3)
    checkpoint.fit(after, tensors, Path("elsewhere"))
    drawn = {key for key in there if tensors[key] is not there[key]}
    assert {key.rsplit(".", 2)[-2] for key in drawn} == {"cls_score", "bbox_pred"}


def test_a_label_file_of_many_stills_is_read_once(tmp_path, monkeypatch):
    images = [tmp_path / f"{number}.jpg" for number in range(3)]
    for image in images:
        image.write_bytes(image.name.encode())
    labels = tmp_path / "labels.json"
    labels.write_text("{}")
    stills = [Sample(image.stem, image, labels) for image in images]
    read = []
    monkeypatch.setattr(files.hashlib, "file_digest", _counting(read, files.hashlib.file_digest))
    first = preparing.hash_files(stills, stills)
    assert sorted(read) == sorted(str(path) for path in (*images, labels))
    labels.write_text("{ }")
    assert preparing.hash_files(stills, stills) != first


def _counting(read, digest):
    def counted(file, name):
        read.append(str(file.name))
        return digest(file, name)

    return counted


def test_lanes_that_are_not_there_are_missed_before_training(tmp_path, monkeypatch):
    run = config.load_run("affinity-culane-teacher", scale="smoke")
    monkeypatch.setattr(loader, "select", lambda *_: [])
    picture = tmp_path / "driver_1" / "clip" / "1.jpg"
    with pytest.raises(LayoutError, match=r"1\.lines\.txt.*annotations_new"):
        preparing.check_report(run, tmp_path, [Sample("driver_1/clip/1", picture, None)])


def test_what_was_made_with_other_settings_is_used_with_a_warning(tmp_path):
    run = config.load_run("affinity-culane-teacher", scale="paper")
    folder = tmp_path / run.folder
    notes = {"settings_hash": "of other settings"}
    checkpoint.save(folder / "model.safetensors", {"x": torch.zeros(1)}, notes)
    with pytest.warns(UserWarning, match=r"other settings.*kdlib run affinity-culane-teacher"):
        assert preparing.require_run(run, tmp_path, make=None) == folder
    notes = {"settings_hash": run.settings_hash()}
    checkpoint.save(folder / "model.safetensors", {"x": torch.zeros(1)}, notes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        preparing.require_run(run, tmp_path, make=None)


def test_frames_of_other_settings_are_clipped_again_at_smoke_scale(tmp_path, monkeypatch):
    run, made = config.load_run("funmatch-det-frames", scale="smoke"), []

    def extract(videos: list, out: Path, **how) -> Path:
        made.append(how["stride"])
        files.write(out / "manifest.csv", b"")
        return out / "manifest.csv"

    monkeypatch.setattr(config, "repository", lambda: tmp_path)
    monkeypatch.setattr(unlabelled, "require_data", lambda *_: None)
    monkeypatch.setattr(unlabelled, "videos", lambda _: [])
    layout = SimpleNamespace(evaluation_ids=lambda _: set())
    monkeypatch.setattr(unlabelled.layouts, "get", lambda _: layout)
    monkeypatch.setattr(unlabelled.frames, "extract", extract)
    other = dataclasses.replace(run, frames=dataclasses.replace(run.frames, stride=7))
    for one in (run, run, other, other, run):
        preparing.require_run(one, tmp_path, unlabelled.extract_frames)
    assert made == [run.frames.stride, 7, run.frames.stride]


def test_damaged_notes_are_told_by_whoever_loads_the_weights(tmp_path):
    run = config.load_run("affinity-culane-teacher", scale="paper")
    path = tmp_path / run.folder / "model.safetensors"
    checkpoint.save(path, {"x": torch.zeros(1)}, {"settings_hash": run.settings_hash()})
    for spoil in (lambda notes: notes.write_text("{"), lambda notes: notes.unlink()):
        spoil(path.with_suffix(".json"))
        assert preparing.require_run(run, tmp_path, make=None) == path.parent
        with pytest.raises(checkpoint.CheckpointError, match=r"model\."):
            checkpoint.load(path)
    smoke, made = dataclasses.replace(run, scale="smoke"), []
    checkpoint.save(tmp_path / smoke.folder / path.name, {"x": torch.zeros(1)}, {})
    (tmp_path / smoke.folder / "model.json").unlink()
    preparing.require_run(smoke, tmp_path, make=made.append)
    assert made == [smoke]


def test_one_process_at_a_time_holds_a_lock(tmp_path):
    order = []

    def second() -> None:
        with files.alone(tmp_path / "deep" / "lock"):
            order.append("second")

    with files.alone(tmp_path / "deep" / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.3)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_labels_are_not_remembered_twice(tmp_path):
    run = config.load_run("structured-camvid-pi-unlabelled", scale="sample")
    labels = loader.Remembered([])
    pool = type("Method", (), {"needs_pool": True})
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, frames=None, unlabelled=()))
    source, _ = preparing.source_of(run, tmp_path, labels, pool, make=None)
    assert isinstance(source, loader.Remembered) and source.source.sources == (labels.source,)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a file has run code",))


@pytest.mark.parametrize("content", ["code", "page"])
def test_a_file_in_the_cache_that_is_not_the_published_one_is_refused(
    tmp_path, monkeypatch, content
):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    place = tmp_path / "checkpoints" / "resnet18-f37072fd.pth"
    place.parent.mkdir()
    if content == "code":
        torch.save({"fc.weight": Bomb()}, place)
    else:
        place.write_text("<html>not here</html>")
    with pytest.raises(ModelError, match=r"resnet18-f37072fd\.pth is damaged or another file"):
        weights.imagenet("ResNet18")
    # even where its name fits
    digest = hashlib.sha256(place.read_bytes()).hexdigest()[:8]
    fitting = place.with_name(f"resnet18-{digest}.pth")
    place.rename(fitting)
    entry = torchvision.models.get_weight("ResNet18_Weights.IMAGENET1K_V1")
    named = dataclasses.replace(entry.value, url=f"https://nowhere.invalid/{fitting.name}")
    monkeypatch.setattr(entry, "_value_", named)
    with pytest.raises(ModelError, match="could not be had"):
        weights.imagenet("ResNet18")
