"""What a run is made ready from: weights of networks for other classes, and hashes of stills."""

from pathlib import Path

import pytest
import torch

from kdlib import checkpoint, config, files, models, preparing
from kdlib.data import loader
from kdlib.data.layouts.sample import LayoutError, Sample


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
