"""Reading frames from shards: by number, from any process, from any file system."""

import multiprocessing
import pickle
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest
from clips import moving, picture, write_clip

from kdlib.data.frames import extract
from kdlib.data.layouts import Video
from kdlib.data.shards import Shards


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    videos = [
        Video(f"c{n}", write_clip(root / "videos" / f"c{n}.mov", moving(6, seed=n)))
        for n in range(4)
    ]
    extract(videos, root / "out", stride=2, heldout=1, frames_per_shard=5, workers=1)
    return root / "out"


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "out"))


def check_frames(shards: Shards) -> None:
    for index in range(len(shards)):
        clip, number = shards.key(index).split("-")
        assert shards.clip(index) == clip
        want = picture(int(number), seed=int(clip[1:]))
        assert np.abs(shards.read(index).astype(int) - want).mean() < 6


def test_reads_every_frame(folder):
    pool, heldout = Shards(folder), Shards(str(folder) + "/", set="heldout")
    assert (len(pool), len(heldout)) == (9, 3)
    assert len(pool.clips) == 3
    assert not set(pool.clips) & set(heldout.clips)
    assert pool.read(0).shape == (36, 64, 3)
    assert pool.read(0).dtype == np.uint8
    check_frames(pool)
    check_frames(heldout)
    with pytest.raises(IndexError, match="frame 9 of 9"):
        pool.read(9)


def test_reads_from_any_file_system(folder):
    store = fsspec.filesystem("memory")
    store.put(str(folder), "/bucket/frames", recursive=True)
    shards = Shards("memory://bucket/frames")
    check_frames(shards)
    assert np.array_equal(shards.read(3), Shards(folder).read(3))
    store.rm("/bucket/frames/pool-000001.tar")
    with pytest.raises(RuntimeError, match=r"pool-000001.tar: is missing"):
        check_frames(shards)
    whole = store.cat("/bucket/frames/pool-000000.tar")
    store.pipe("/bucket/frames/pool-000000.tar", whole[:2000])
    with pytest.raises(RuntimeError, match=r"pool-000000.tar: is truncated: "):
        check_frames(shards)


def test_travels_to_other_processes(folder):
    shards = Shards(folder)
    shards.read(0)
    again = pickle.loads(pickle.dumps(shards))
    assert np.array_equal(again.read(5), shards.read(5))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert np.array_equal(pool.map(shards.read, [7])[0], shards.read(7))


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda out: (out / "manifest.csv").unlink(), "manifest.csv: is missing"),
        (lambda out: (out / "pool-000001.tar").unlink(), "pool-000001.tar: is missing"),
        (
            lambda out: (out / "pool-000001.tar").write_bytes(b"short"),
            "pool-000001.tar: is truncated: 5 of ",
        ),
        (lambda out: (out / "manifest.csv").write_text(""), "does not start with the columns set"),
        (
            lambda out: (out / "manifest.csv").write_text(
                (out / "manifest.csv").read_text().rstrip()[:-20]
            ),
            "manifest.csv: line 13 is cut short",
        ),
    ],
)
def test_damage_is_named_with_its_cure(copy, damage, text):
    damage(copy)
    with pytest.raises(RuntimeError, match=text) as caught:
        Shards(copy)
    assert "Cure: run `dvc repro funmatch-frames`" in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_another_tar_is_noticed(copy):
    tar = copy / "pool-000000.tar"
    tar.write_bytes(b"\0" * 100 + tar.read_bytes())
    with pytest.raises(RuntimeError, match=r"holds no JPEG at .*not the manifest's tar"):
        Shards(copy).read(0)


def test_an_unknown_set_lists_the_known_ones(folder):
    with pytest.raises(RuntimeError, match=r"no set 'test'; it has pool \(9\), heldout \(3\)"):
        Shards(folder, set="test")
