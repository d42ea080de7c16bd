"""Weights and resume points: what was saved comes back, and nothing half-written is ever seen."""

import pickle

import pytest
import torch
from torch import nn

from kdlib import checkpoint
from kdlib.checkpoint import CheckpointError
from kdlib.files import atomic


@pytest.fixture
def saved(tmp_path):
    tensors = {
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "conv": torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
        "shared": torch.arange(6.0).expand(2, 6),  # a view on fewer numbers than it shows
        "step": torch.tensor(7),
    }
    path = tmp_path / "run" / "model.safetensors"
    checkpoint.save(path, tensors, {"score": 0.25, "run": "a"})
    return path, tensors


def test_what_was_saved_comes_back(saved):
    path, tensors = saved
    loaded, notes = checkpoint.load(path)
    assert notes == {"score": 0.25, "run": "a"}
    assert loaded.keys() == tensors.keys()
    for key, value in tensors.items():
        assert loaded[key].dtype == value.dtype
        assert torch.equal(loaded[key], value)
    assert sorted(p.name for p in path.parent.iterdir()) == ["model.json", "model.safetensors"]


def test_the_same_content_has_the_same_bytes(saved, tmp_path):
    path, tensors = saved
    again = tmp_path / "again.safetensors"
    checkpoint.save(again, dict(reversed(tensors.items())), {"run": "a", "score": 0.25})
    assert again.read_bytes() == path.read_bytes()
    assert again.with_suffix(".json").read_bytes() == path.with_suffix(".json").read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:5],
        lambda data: b"",
        lambda data: b"\xff" * 16 + data[16:],
    ],
)
def test_a_damaged_file_is_told_with_its_cure(saved, damage):
    path, _ = saved
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged .* Delete it"):
        checkpoint.load(path)


def test_damaged_notes_are_told(saved):
    path, _ = saved
    path.with_suffix(".json").write_text('{"score": 0.2')
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(path)


@pytest.mark.parametrize("missing", ["model.safetensors", "model.json"])
def test_a_missing_half_is_told(saved, missing):
    path, _ = saved
    (path.parent / missing).unlink()
    with pytest.raises(CheckpointError, match=rf"{missing}: no such checkpoint"):
        checkpoint.load(path)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="in the middle"), atomic(path) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError("in the middle")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with atomic(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


class Trap:
    """A pickle that writes a file when it is loaded as pickles usually are."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_foreign_weights_never_run_code(tmp_path):
    path, sprung = tmp_path / "net.pth", tmp_path / "sprung"
    torch.save({"state_dict": {"w": Trap(sprung)}}, path)
    with pytest.raises(CheckpointError, match=r"net\.pth: not a file of plain tensors"):
        checkpoint.load_foreign(path)
    path.write_bytes(pickle.dumps(Trap(sprung), protocol=2))
    with pytest.raises(CheckpointError, match=r"net\.pth: not a file of plain tensors"):
        checkpoint.load_foreign(path)
    assert not sprung.exists()


def test_foreign_wrappings_are_taken_off(tmp_path):
    path, weights = tmp_path / "net.pth", {"a.weight": torch.ones(2), "module": torch.zeros(1)}
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in weights.items()}}, path)
    loaded = checkpoint.load_foreign(path)
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[k], weights[k]) for k in weights)
    torch.save(weights, path)
    assert checkpoint.load_foreign(path).keys() == weights.keys()


@pytest.mark.parametrize("content", [[torch.ones(1)], {"model": {"a": torch.ones(1)}, "epoch": 3}])
def test_foreign_files_of_another_form_are_told(tmp_path, content):
    path = tmp_path / "net.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"net\.pth: "):
        checkpoint.load_foreign(path)
    with pytest.raises(CheckpointError, match=r"absent\.pth: no such file"):
        checkpoint.load_foreign(tmp_path / "absent.pth")


def test_weights_of_another_network_are_told_with_the_file(saved):
    path, _ = saved
    network = nn.Linear(3, 2)
    wrong = {"weight": torch.zeros(2, 4), "bias": torch.zeros(2)}
    with pytest.raises(CheckpointError, match=r"model\.safetensors: made for another network"):
        checkpoint.fit(network, wrong, path)
    with pytest.raises(CheckpointError, match="bias"):
        checkpoint.fit(network, {"weight": torch.zeros(2, 3)}, path)
    right = {"weight": torch.zeros(2, 3), "bias": torch.ones(2)}
    checkpoint.fit(network, right, path)
    assert torch.equal(network(torch.ones(1, 3)), torch.ones(1, 2))
