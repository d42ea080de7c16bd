"""Batches are a function of seed and step; sources give what they promise or say why not."""

import csv
import io
import tarfile

import cv2
import numpy as np
import pytest
import torch

from kdlib.config import Subset
from kdlib.data import loader
from kdlib.data.loader import Batches, ClippedFrames, DataError, Joined, Remembered, Stills
from kdlib.data.manifest import COLUMNS

SIZE = (6, 10)


class Numbered:
    """A source whose image number i has the value i everywhere; counts its reads."""

    def __init__(self, count: int, *, labels: bool = True, start: int = 0):
        self.count, self.labels, self.start, self.reads = count, labels, start, 0

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        self.reads += 1
        image = np.full((*SIZE, 3), self.start + index, np.uint8)
        return image, image[..., 0] if self.labels else None


def shown(batches: Batches, step: int) -> list[int]:
    return batches[step][0][:, 0, 0, 0].tolist()


def test_a_batch_holds_images_and_labels_of_the_same_items():
    images, labels = Batches(Numbered(7), 3, seed=0)[5]
    assert images.shape == (3, 3, *SIZE) and images.dtype == torch.uint8
    assert labels.shape == (3, *SIZE) and labels.dtype == torch.uint8
    assert torch.equal(images[:, 0], labels)


def test_each_epoch_shows_every_item_once():
    batches = Batches(Numbered(10), 4, seed=0)  # five batches make two epochs
    seen = [number for step in range(10) for number in shown(batches, step)]
    epochs = [seen[start : start + 10] for start in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 4
    other = Batches(Numbered(10), 4, seed=1)
    assert [shown(other, step) for step in range(10)] != [shown(batches, s) for s in range(10)]


def test_a_batch_may_be_larger_than_the_source():
    assert sorted(shown(Batches(Numbered(3), 6, seed=0), 2)) == [0, 0, 1, 1, 2, 2]


def test_a_step_does_not_depend_on_the_steps_before():
    steps = range(12)
    in_order = Batches(Numbered(10), 4, seed=3)
    expected = {step: shown(in_order, step) for step in steps}
    backwards = Batches(Numbered(10), 4, seed=3)
    assert {step: shown(backwards, step) for step in reversed(steps)} == expected
    assert all(shown(Batches(Numbered(10), 4, seed=3), step) == expected[step] for step in steps)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_the_same_global_batch(world):
    whole = Batches(Numbered(10), 6, seed=0)
    parts = [Batches(Numbered(10), 6, seed=0, rank=r, world=world) for r in range(world)]
    for step in range(6):
        for rank, part in enumerate(parts):
            assert shown(part, step) == shown(whole, step)[rank::world]


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(DataError, match="batch 6 does not divide by 4"):
        Batches(Numbered(10), 6, seed=0, world=4)


def test_images_without_label_are_ignored_in_a_batch_with_labels():
    source = Joined(Numbered(5), Numbered(8, labels=False, start=5))
    batches = Batches(source, 3, seed=0)
    kinds = set()
    for step in range(24):
        images, labels = batches[step]
        known = images[:, 0] < 5
        kinds.add(int(known[:, 0, 0].sum()))
        if labels is None:
            assert not known.any()
        else:
            assert torch.equal(labels, images[:, 0].where(known, 255))
    assert kinds >= {0, 1, 2}  # also a batch without any label, and mixed ones


@pytest.mark.parametrize("workers", [0, 2])
def test_the_stream_goes_from_any_step_to_the_last(workers):
    batches = Batches(Numbered(10), 4, seed=0)
    expected = [shown(batches, step) for step in range(7, 12)]
    stream = loader.stream(batches, 7, 12, workers=workers, pin=False)
    assert [images[:, 0, 0, 0].tolist() for images, _ in stream] == expected
    assert list(loader.stream(batches, 12, 12, workers=workers, pin=False)) == []


def test_joined_sources_follow_one_another():
    source = Joined(Numbered(3), Numbered(1, start=3), Numbered(4, start=4))
    assert len(source) == 8
    assert [int(source.read(i)[0][0, 0, 0]) for i in range(8)] == list(range(8))
    with pytest.raises(IndexError):
        source.read(8)


def test_remembered_items_are_read_once_while_they_fit():
    inner = Numbered(4)
    one = sum(part.nbytes for part in inner.read(0))
    source = Remembered(inner, budget=2 * one + one // 2)
    inner.reads = 0
    for _ in range(3):
        assert [int(source.read(i)[0][0, 0, 0]) for i in range(4)] == [0, 1, 2, 3]
    assert inner.reads == 2 + 3 * 2  # two fit, the other two are read each time


@pytest.fixture
def tree(tmp_path):
    """Ten stills of two drives in BDD100K's layout; red and label say which."""
    images = tmp_path / "images" / "10k" / "train"
    masks = tmp_path / "labels" / "sem_seg" / "masks" / "train"
    images.mkdir(parents=True)
    masks.mkdir(parents=True)
    for number in range(10):
        name = f"{'aabb' if number < 6 else 'ccdd'}{number:04d}-{number:08d}"
        picture = np.zeros((12, 20, 3), np.uint8)
        picture[:, 10:] = 20 * number
        cv2.imwrite(str(images / f"{name}.jpg"), picture)
        cv2.imwrite(str(masks / f"{name}.png"), (picture[..., 0] > 0).astype(np.uint8) * number)
    return tmp_path


def chosen(tree, seed=0, **options) -> list[int]:
    samples = loader.select("bdd100k", tree, Subset("train", **options), seed)
    return [int(sample.id[-8:]) for sample in samples]


def test_a_subset_is_a_range_of_a_drive(tree):
    assert chosen(tree) == list(range(10))
    assert chosen(tree, drives=("ccdd",)) == [6, 7, 8, 9]
    assert chosen(tree, drives=("ccdd", "aabb"), take=(2, 5)) == [2, 3, 4]
    assert chosen(tree, drives=("ccdd",), take=(1, 4)) == [7, 8, 9]


def test_a_draw_depends_on_the_seed_alone_and_stays_in_its_range(tree):
    drawn = {seed: chosen(tree, seed, take=(0, 8), draw=4) for seed in range(20)}
    assert all(numbers == sorted(set(numbers)) and len(numbers) == 4 for numbers in drawn.values())
    assert set().union(*drawn.values()) == set(range(8))
    assert len(set(map(tuple, drawn.values()))) > 10
    assert chosen(tree, 7, take=(0, 8), draw=4) == drawn[7]


@pytest.mark.parametrize(
    "options",
    [
        {"draw": 11},
        {"take": (0, 4), "draw": 5},
        {"take": (0, 11)},
        {"take": (10, 12)},
        {"take": (3, 3)},
        {"drives": ("eeff",)},
    ],
)
def test_more_stills_than_there_are_is_refused(tree, options):
    with pytest.raises(DataError, match=r"split 'train' .*params\.yaml"):
        chosen(tree, **options)


def test_stills_are_shrunk_with_their_labels(tree):
    samples = loader.select("bdd100k", tree, Subset("train", take=(5, 6)), 0)
    image, label = Stills("bdd100k", samples, SIZE, labels=True).read(0)
    assert image.shape == (*SIZE, 3) and label.shape == SIZE
    assert np.array_equal(label, np.repeat([[0] * 5 + [5] * 5], 6, axis=0))
    assert abs(int(image[:, :4].max())) < 12 and abs(int(image[:, 6:].min()) - 100) < 12
    assert Stills("bdd100k", samples, SIZE, labels=False).read(0)[1] is None


def test_a_still_without_label_is_told_when_its_label_is_needed(tree):
    images = tree / "images" / "10k"
    (images / "train").rename(images / "test")
    samples = loader.select("bdd100k", tree, Subset("test"), 0)
    assert Stills("bdd100k", samples, SIZE, labels=False).read(3)[1] is None
    with pytest.raises(DataError, match=r"aabb0003-00000003\.jpg: has no label"):
        Stills("bdd100k", samples, SIZE, labels=True).read(3)


@pytest.fixture
def shards(tmp_path):
    """Five frames of the pool and one held out, in one tar, with a manifest."""
    rows = []
    with tarfile.open(tmp_path / "pool-000000.tar", "w") as tar:
        for number in range(6):
            picture = np.full((12, 20, 3), 40 * number, np.uint8)
            data = cv2.imencode(".jpg", picture)[1].tobytes()
            member = tarfile.TarInfo(f"clip-{number:06d}.jpg")
            member.size = len(data)
            start = tar.offset + tarfile.BLOCKSIZE
            tar.addfile(member, io.BytesIO(data))
            which = "pool" if number < 5 else "heldout"
            place = (12, 20, start, len(data), "0" * 64)
            rows.append((which, tar.name.split("/")[-1], member.name, "clip", number, 0.5, *place))
    with open(tmp_path / "manifest.csv", "w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return tmp_path


def test_clipped_frames_are_the_first_of_their_set(shards):
    frames = ClippedFrames(shards, "pool", SIZE, count=3)
    assert len(frames) == 3 and len(ClippedFrames(shards, "pool", SIZE)) == 5
    assert len(ClippedFrames(shards, "heldout", SIZE)) == 1
    for number in range(3):
        image, label = frames.read(number)
        assert image.shape == (*SIZE, 3) and label is None
        assert abs(int(image.mean()) - 40 * number) <= 2


def test_more_frames_than_there_are_is_refused(shards):
    with pytest.raises(DataError, match=r"6 frames asked for, 5 there\. .*data\.pool"):
        ClippedFrames(shards, "pool", SIZE, count=6)


def test_resizing_down_averages():
    stripes = np.zeros((8, 8, 3), np.uint8)
    stripes[:, ::2] = 200
    assert (loader.resize(stripes, (4, 4)) == 100).all()
    assert loader.resize(stripes, (8, 8)) is stripes
    assert loader.resize(stripes, (16, 16)).shape == (16, 16, 3)
