"""Frame extraction: what is taken, how it is stored, and what a kill or a bad clip costs."""

import csv
import errno
import hashlib
import io
import logging
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import warnings
from collections import Counter
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from clips import die, moving, picture, write_clip

from kdlib.data import crew, frames, packing, parts
from kdlib.data.crew import DIED, work_through
from kdlib.data.decode import Sampling, read_clip
from kdlib.data.frames import extract
from kdlib.data.layouts import Video


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[Video]:
    """Six clips of twelve frames each, 36x64 at 10 Hz."""
    folder = tmp_path_factory.mktemp("clips")
    return [
        Video(f"clip{n}", write_clip(folder / f"clip{n}.mov", moving(12, seed=n))) for n in range(6)
    ]


def rows_of(manifest: Path) -> list[dict[str, str]]:
    with manifest.open(newline="") as file:
        return list(csv.DictReader(file))


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def decoded(data: bytes) -> np.ndarray:
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), 1), cv2.COLOR_BGR2RGB)


# What is taken


def test_stride_takes_every_kth_frame(clips):
    clip = read_clip(clips[0].path, Sampling(stride=5))
    assert [frame.frame for frame in clip.frames] == [0, 5, 10]
    assert [frame.time_s for frame in clip.frames] == [0.0, 0.5, 1.0]
    assert (clip.decoded, clip.expected, clip.broken) == (12, 3, "")
    for frame in clip.frames:
        jpeg = clip.jpegs[frame.offset : frame.offset + frame.bytes]
        assert np.abs(decoded(jpeg).astype(int) - picture(frame.frame)).mean() < 6
        assert frame.sha256 == hashlib.sha256(jpeg).hexdigest()


def test_rate_goes_by_timestamps_not_by_frame_numbers(tmp_path):
    times = [0.0, 0.1, 0.2, 0.3, 1.05, 1.1, 1.2, 2.0, 2.9]
    path = write_clip(tmp_path / "uneven.mp4", moving(9), times=times)
    clip = read_clip(path, Sampling(rate=1.0))
    assert [frame.frame for frame in clip.frames] == [0, 4, 7]
    clip = read_clip(path, Sampling(rate=5.0))
    assert [frame.frame for frame in clip.frames] == [0, 2, 4, 6, 7, 8]


@pytest.mark.parametrize(
    "settings",
    [{}, {"stride": 2, "rate": 1.0}, {"stride": 0}, {"rate": 0.0}, {"stride": 1, "quality": 0}],
)
def test_contradicting_settings_are_refused(settings):
    with pytest.raises(ValueError, match=r"stride|rate|quality"):
        Sampling(**settings)


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_the_display_matrix_is_honoured(tmp_path, turn):
    path = write_clip(tmp_path / "turned.mov", [picture(0)], turn=turn)
    clip = read_clip(path, Sampling(stride=1))
    seen = np.rot90(picture(0), -turn // 90)
    assert (clip.frames[0].height, clip.frames[0].width) == seen.shape[:2]
    assert np.abs(decoded(clip.jpegs).astype(int) - seen).mean() < 6


def test_resizing_averages_areas_and_keeps_the_aspect(tmp_path):
    path = write_clip(tmp_path / "a.mp4", [picture(0)])
    half = decoded(read_clip(path, Sampling(stride=1, size=(18, 32))).jpegs)
    want = cv2.resize(picture(0), (32, 18), interpolation=cv2.INTER_AREA)
    assert np.abs(half.astype(int) - want).mean() < 6
    square = decoded(read_clip(path, Sampling(stride=1, size=(36, 36))).jpegs)
    assert np.abs(square.astype(int) - picture(0)[:, 14:50]).mean() < 6


def test_near_duplicates_of_the_last_kept_frame_are_dropped(tmp_path):
    images = [picture(0), picture(0), picture(1), picture(1), picture(1), picture(9)]
    path = write_clip(tmp_path / "still.mp4", images)
    clip = read_clip(path, Sampling(stride=1, duplicate_threshold=2.0))
    assert [frame.frame for frame in clip.frames] == [0, 2, 5]
    assert clip.duplicates == 3
    drift = [np.full((36, 64, 3), 40 + level, np.uint8) for level in range(12)]
    path = write_clip(tmp_path / "drift.mp4", drift)
    clip = read_clip(path, Sampling(stride=1, duplicate_threshold=3.0))
    assert 3 <= len(clip.frames) <= 6  # each step is under the threshold, the sum is not


# What comes out


def test_shards_manifest_and_sets(clips, tmp_path):
    ids = {clips[2].id, "not a clip"}
    manifest = extract(
        clips, tmp_path, drop_ids=ids, heldout=1, stride=2, frames_per_shard=10, workers=1
    )
    rows = rows_of(manifest)
    assert Counter(row["set"] for row in rows) == {"pool": 24, "heldout": 6}
    assert clips[2].id not in {row["clip"] for row in rows}
    heldout = {row["clip"] for row in rows if row["set"] == "heldout"}
    assert len(heldout) == 1
    assert not heldout & {row["clip"] for row in rows if row["set"] == "pool"}
    names = {path.name for path in tmp_path.iterdir()}
    tars = {*(f"pool-00000{n}.tar" for n in range(3)), "heldout-000000.tar"}
    assert names == {"manifest.csv", "dropped.csv", *tars}
    for row in rows:
        tar = (tmp_path / row["shard"]).read_bytes()
        jpeg = tar[int(row["offset"]) :][: int(row["bytes"])]
        assert hashlib.sha256(jpeg).hexdigest() == row["sha256"]
        assert decoded(jpeg).shape == (int(row["height"]), int(row["width"]), 3)
        assert row["key"] == f"{row['clip']}-{int(row['frame']):06d}"
    assert (tmp_path / "dropped.csv").read_text() == "clip,reason,count\nclip2,evaluation,6\n"
    with tarfile.open(tmp_path / "pool-000000.tar") as tar:
        assert {(member.mtime, member.uname, member.mode) for member in tar} == {(0, "", 0o444)}


def test_webdataset_reads_the_shards(clips, tmp_path):
    import webdataset

    rows = rows_of(extract(clips[:2], tmp_path, stride=4, workers=1))
    dataset = webdataset.WebDataset(str(tmp_path / "pool-000000.tar"), shardshuffle=False)
    seen = [(sample["__key__"], len(sample["jpg"])) for sample in dataset]
    assert seen == [(row["key"], int(row["bytes"])) for row in rows]


def test_frames_of_many_clips_are_interleaved(clips, tmp_path):
    rows = rows_of(extract(clips, tmp_path, stride=1, frames_per_shard=36, workers=1))
    for shard in ("pool-000000.tar", "pool-000001.tar"):
        order = [row["clip"] for row in rows if row["shard"] == shard]
        assert len(order) == 36
        assert len(set(order)) == 6
        same = sum(a == b for a, b in pairwise(order))
        assert same < 18  # 35 neighbours: 5 would be chance, 30 would be clip after clip


def test_blocks_bound_the_scratch_folder(clips, tmp_path):
    rows = rows_of(extract(clips, tmp_path, stride=3, clips_per_block=2, workers=1))
    by_shard = {shard: {r["clip"] for r in rows if r["shard"] == shard} for shard in
                {row["shard"] for row in rows}}  # fmt: skip
    assert len(by_shard) == 3
    assert sorted(map(len, by_shard.values())) == [2, 2, 2]
    assert len(rows) == 24


def test_the_seed_decides_and_the_workers_do_not(clips, tmp_path):
    settings = {"stride": 3, "heldout": 2, "frames_per_shard": 8}
    extract(clips, tmp_path / "one", **settings, workers=1)
    extract(clips[::-1], tmp_path / "two", **settings, workers=2)
    extract(clips, tmp_path / "other", **settings, workers=1, seed=1)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")
    assert hashes(tmp_path / "one") != hashes(tmp_path / "other")


def test_earlier_results_are_replaced(clips, tmp_path):
    extract(clips, tmp_path, stride=1, frames_per_shard=10, workers=1)
    extract(clips[:2], tmp_path, stride=6, workers=1)
    assert sorted(hashes(tmp_path)) == ["dropped.csv", "manifest.csv", "pool-000000.tar"]


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"heldout": 6}, "6 clips are to be held out, but 6 are left"),
        ({"drop_ids": {f"clip{n}" for n in range(6)}}, "no clip is left of 6"),
        ({"frames_per_shard": 0}, "must be 1 or more"),
    ],
)
def test_impossible_plans_are_refused(clips, tmp_path, settings, what):
    with pytest.raises(ValueError, match=what):
        extract(clips, tmp_path, stride=1, workers=1, **settings)


def test_two_clips_of_one_id_are_refused(clips, tmp_path):
    with pytest.raises(ValueError, match="unique, but these are not: clip0"):
        extract([*clips, clips[0]], tmp_path, stride=1, workers=1)


# Damage


def damaged(clips: list[Video], folder: Path) -> list[Video]:
    """Clips that break in four ways, among sound ones."""
    folder.mkdir()
    whole = write_clip(folder / "w.mp4", moving(60, seed=9), options={"movflags": "+faststart"})
    data = whole.read_bytes()
    (folder / "cut.mp4").write_bytes(data[: len(data) * 6 // 10])
    scratched = bytearray(data)
    middle = len(data) // 2
    scratched[middle : middle + 400] = np.random.default_rng(0).bytes(400)
    (folder / "scratched.mp4").write_bytes(scratched)
    (folder / "noise.mp4").write_bytes(b"no video at all" * 50)
    (folder / "empty.mp4").write_bytes(b"")
    whole.unlink()
    names = ("cut", "scratched", "noise", "empty", "missing")
    return [*clips[:2], *(Video(name, folder / f"{name}.mp4") for name in names)]


def test_broken_clips_are_logged_and_skipped(clips, tmp_path, caplog):
    videos = damaged(clips, tmp_path / "videos")
    with caplog.at_level(logging.WARNING):
        rows = rows_of(extract(videos, tmp_path / "out", stride=2, workers=1))
    kept = Counter(row["clip"] for row in rows)
    assert kept["clip0"] == kept["clip1"] == 6
    assert not kept.keys() & {"noise", "empty", "missing"}
    for name in ("cut", "scratched"):
        assert 5 < kept[name] < 25, name  # the frames before the break, of 30
    for row in rows:
        if row["clip"] in ("cut", "scratched"):
            tar = (tmp_path / "out" / row["shard"]).read_bytes()
            jpeg = tar[int(row["offset"]) :][: int(row["bytes"])]
            want = picture(int(row["frame"]), seed=9)
            assert np.abs(decoded(jpeg).astype(int) - want).mean() < 6
    dropped = rows_of(tmp_path / "out" / "dropped.csv")
    lost = {
        row["clip"]: int(row["count"]) for row in dropped if row["reason"].startswith("broken:")
    }
    assert lost.keys() == {"cut", "scratched", "noise", "empty", "missing"}
    assert lost["cut"] == 30 - kept["cut"]
    assert "noise.mp4" in caplog.text


def test_a_worker_that_dies_takes_nobody_with_it():
    tasks = [(number, 5) for number in range(12)]
    got = list(work_through(die, tasks, workers=2))
    assert got == [DIED if number == 5 else number for number in range(12)]


def test_a_pool_that_breaks_while_tasks_are_handed_out(monkeypatch):
    pools = []

    class Pool(crew.ProcessPoolExecutor):
        """The first pool breaks at its third task, before that task is taken."""

        def submit(self, *words):
            if self is pools[0] and self.handed_out == 2:
                raise crew.BrokenProcessPool("broken in between")
            self.handed_out += 1
            return super().submit(*words)

    def pool(workers):
        made = Pool(workers, crew.get_context("spawn"), initializer=crew._start)
        made.handed_out = 0
        pools.append(made)
        return made

    monkeypatch.setattr(crew, "_pool", pool)
    assert list(work_through(abs, [(-number,) for number in range(6)], workers=2)) == [*range(6)]


def test_a_clip_that_kills_its_decoder_is_listed(clips, tmp_path, monkeypatch):
    def crew(function, tasks, workers):
        for task in tasks:
            yield DIED if task[0] == clips[3].path else function(*task)

    monkeypatch.setattr(frames, "work_through", crew)
    rows = rows_of(extract(clips, tmp_path, stride=6, workers=2))
    assert Counter(row["clip"] for row in rows).keys() == {f"clip{n}" for n in (0, 1, 2, 4, 5)}
    assert "clip3,broken: kills its decoder,2\n" in (tmp_path / "dropped.csv").read_text()


def test_a_script_without_a_main_guard_is_told_so(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "from kdlib.data.crew import work_through\nprint(list(work_through(abs, [(1,)] * 4, 2)))\n"
    )
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    run = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 1
    assert "if __name__ == '__main__'" in run.stderr.strip().splitlines()[-1]


# Interruption


def killed(run) -> None:
    """Runs `run` in a child process that must end by SIGKILL."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child runs one thread only
        child = os.fork()
    if child == 0:
        cv2.setNumThreads(1)
        try:
            run()
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def after(function, count: int):
    """`function`, but its call number `count` ends with SIGKILL."""
    calls = []

    def wrapped(*arguments, **options):
        calls.append(1)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)

    return wrapped


@pytest.mark.parametrize(
    ("module", "name", "count", "again"),
    [
        (frames, "decode_to_part", 1, 6),
        (frames, "decode_to_part", 4, 3),
        (packing, "write_shard", 2, 2),
        (parts.os, "replace", 3, 5),  # a part that is written but has no name yet
        (parts.os, "replace", 16, 0),  # results on their way to their place
        (parts.os, "replace", 20, 0),
        (frames.shutil, "rmtree", 1, 0),
    ],
)
def test_a_killed_run_goes_on_to_the_same_bytes(
    clips, tmp_path, monkeypatch, module, name, count, again
):
    """`again` is how many of the six clips are decoded a second time."""
    settings = {"stride": 3, "heldout": 2, "frames_per_shard": 8, "workers": 1}
    extract(clips, tmp_path / "whole", **settings)

    def run():
        monkeypatch.setattr(module, name, after(getattr(module, name), count))
        extract(clips, tmp_path / "out", **settings)

    killed(run)
    work = []
    real = frames.decode_to_part
    monkeypatch.setattr(frames, "decode_to_part", lambda *task: work.append(task) or real(*task))
    extract(clips, tmp_path / "out", **settings)
    assert hashes(tmp_path / "out") == hashes(tmp_path / "whole")
    assert len(work) == again


def test_a_killed_crew_goes_on_to_the_same_bytes(clips, tmp_path):
    videos = [Video(f"{turn}-{clip.id}", clip.path) for turn in range(10) for clip in clips]
    settings = {"stride": 1, "duplicate_threshold": 1.0, "frames_per_shard": 100}
    listing = [(video.id, str(video.path)) for video in videos]
    script = tmp_path / "run.py"
    script.write_text(
        "from pathlib import Path\n"
        "from kdlib.data.frames import extract\n"
        "from kdlib.data.layouts import Video\n"
        "if __name__ == '__main__':\n"
        f"    videos = [Video(id, Path(path)) for id, path in {listing}]\n"
        f"    extract(videos, {str(tmp_path / 'out')!r}, workers=2, **{settings})\n"
    )
    root = Path(__file__).parents[1]
    run = subprocess.Popen(
        [sys.executable, str(script)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.DEVNULL,
    )
    scratch = tmp_path / "out" / ".parts" / "clips"
    end = time.monotonic() + 300
    while len(list(scratch.glob("*.part"))) < 2:
        assert run.poll() is None
        assert time.monotonic() < end
        time.sleep(0.005)
    run.kill()
    run.wait()
    assert not (tmp_path / "out" / "manifest.csv").exists()
    extract(videos, tmp_path / "out", workers=1, **settings)
    extract(videos, tmp_path / "whole", workers=1, **settings)
    assert hashes(tmp_path / "out") == hashes(tmp_path / "whole")


def test_other_settings_start_afresh(clips, tmp_path, monkeypatch):
    def run():
        monkeypatch.setattr(frames, "decode_to_part", after(frames.decode_to_part, 4))
        extract(clips, tmp_path / "out", stride=3, workers=1)

    killed(run)
    extract(clips, tmp_path / "out", stride=4, workers=1)
    extract(clips, tmp_path / "whole", stride=4, workers=1)
    assert hashes(tmp_path / "out") == hashes(tmp_path / "whole")


@pytest.mark.parametrize(
    ("module", "name", "count", "again"),
    [(frames, "decode_to_part", 4, 3), (parts.os, "replace", 14, 6)],
)
def test_a_scratch_folder_elsewhere_survives_an_emptied_output(
    clips, tmp_path, monkeypatch, module, name, count, again
):
    """DVC removes a stage's outputs before it runs the stage again."""
    settings = {"stride": 3, "workers": 1, "scratch": tmp_path / "cache" / "frames"}
    extract(clips, tmp_path / "whole", **settings)
    assert not settings["scratch"].exists()

    def run():
        monkeypatch.setattr(module, name, after(getattr(module, name), count))
        extract(clips, tmp_path / "out", **settings)

    killed(run)
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    work = []
    real = frames.decode_to_part
    monkeypatch.setattr(frames, "decode_to_part", lambda *task: work.append(task) or real(*task))
    extract(clips, tmp_path / "out", **settings)
    assert len(work) == again
    assert hashes(tmp_path / "out") == hashes(tmp_path / "whole")


def test_a_full_disk_says_so_and_the_work_goes_on(clips, tmp_path, monkeypatch):
    settings = {"stride": 3, "frames_per_shard": 8, "workers": 1}
    extract(clips, tmp_path / "whole", **settings)
    real, calls = parts.os.replace, []

    def full(*paths):
        calls.append(paths)
        if len(calls) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*paths)

    monkeypatch.setattr(parts.os, "replace", full)
    with pytest.raises(OSError, match=r"disk full while writing .*free space and run") as caught:
        extract(clips, tmp_path / "out", **settings)
    assert caught.value.errno == errno.ENOSPC
    assert not list((tmp_path / "out").rglob("*.draft"))
    monkeypatch.setattr(parts.os, "replace", real)
    extract(clips, tmp_path / "out", **settings)
    assert hashes(tmp_path / "out") == hashes(tmp_path / "whole")


def test_the_scratch_folder_may_lie_on_another_file_system(clips, tmp_path, monkeypatch):
    extract(clips, tmp_path / "whole", stride=3, workers=1)
    real = parts.os.replace

    def apart(source, target):
        if Path(source).parent != Path(target).parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return real(source, target)

    monkeypatch.setattr(parts.os, "replace", apart)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".pool-000000.tar.1.draft").touch()  # what a kill leaves there
    extract(clips, tmp_path / "out", stride=3, workers=1, scratch=tmp_path / "elsewhere")
    assert hashes(tmp_path / "out") == hashes(tmp_path / "whole")
    assert not (tmp_path / "elsewhere").exists()


def test_two_extractions_do_not_share_a_folder(clips, tmp_path):
    with (
        frames._alone_in(tmp_path / ".parts"),
        pytest.raises(OSError, match="another extraction is at work here"),
    ):
        extract(clips, tmp_path, stride=3, workers=1)


# The clock on the wall


def test_one_decode_reads_each_clip_once(clips, monkeypatch):
    opened = []
    real = av.open
    monkeypatch.setattr(av, "open", lambda *a, **k: opened.append(a) or real(*a, **k))
    read_clip(clips[0].path, Sampling(stride=2))
    assert len(opened) == 1


def test_the_summary_tells_speed_and_losses(clips, tmp_path, capsys):
    extract(clips, tmp_path, stride=3, drop_ids={"clip1"}, heldout=1, workers=1)
    told = io.StringIO(capsys.readouterr().out).read()
    assert "frames/s" in told
    assert "pool: 16 frames of 4 clips in 1 shards" in told
    assert "heldout: 4 frames of 1 clips in 1 shards" in told
    assert "dropped: 1 evaluation clips (4 frames)" in told
