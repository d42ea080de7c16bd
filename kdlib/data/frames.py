"""Unlabelled frames: videos -> JPEG frames of many clips, interleaved in WebDataset tar shards.

    out/pool-000000.tar ...      frames to learn from
    out/heldout-000000.tar ...   frames of clips that are kept apart, to measure agreement on
    out/manifest.csv             one row a frame: set, shard, key, clip, frame, time_s, height,
                                 width, offset, bytes, sha256 (offset and bytes find the JPEG in
                                 the tar, so that it can be read without the tar's index)
    out/dropped.csv              clip, reason, count: sampled frames that were left out, by reason

Steps: clips are put in an order drawn by the seed and cut into blocks. The clips of a block are
decoded by one process a core into one part file each; then their frames are shuffled together into
the block's shards and the parts are removed. So memory holds one clip a worker, the scratch folder
the parts of one block and all shards so far, which go to `out` when the last is whole; and a reader
that goes through a shard sees no neighbours in time. Draws are sorted hashes, not random
generators: they are the same in every version of Python and NumPy.

A killed run goes on where it stopped when it is called again with the same settings, and ends with
the same bytes. Reasons in dropped.csv:

- ``evaluation``: the clip's id is that of an evaluation still; nothing but its header is read.
- ``near-duplicate``: see `kdlib.data.decode.Sampling`.
- ``broken: ...``: the clip cannot be opened, or stops; the frames before the break are kept.

Counts of the first and the last are by the clip's header; 0 where even that cannot be read.

How long and how large, from ``benchmarks/frames.py`` on two real 25 Hz clips at 4 kept frames a
second: one core reads 210 to 290 frames a second of 720p at 4.2 Mbit/s, 410 to 440 of 540p at 2.4
Mbit/s. Four fifths of that is the decoder, so the ffmpeg program is as fast, give or take a tenth.
BDD100K's 100,000 videos are 120 million frames: 75 to 160 core hours, ten hours or less on 16
cores. A frame at JPEG quality 90 takes 57 to 163 kB as decoded and 31 to 57 kB at 360x640, so 16
million take 0.9 to 2.6 TB or 0.5 to 0.9 TB, until the end in the scratch folder, and the parts of a
block some 10 to 30 GB beside them. Their manifest is 2.7 GB; a reader takes some 40 s to load it.
"""

import csv
import fcntl
import hashlib
import io
import json
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import cv2

from kdlib.data.crew import DIED, cores, work_through
from kdlib.data.decode import Clip, Sampling, header_frames
from kdlib.data.layouts.sample import Video
from kdlib.data.manifest import COLUMNS, SETS, key_of
from kdlib.data.packing import Block, drawn, finished, gather, part_path
from kdlib.data.parts import decode_to_part, move, read_part, whole_file, write_part
from kdlib.progress import bar

FORM = 1  # raise it when the same settings would give other bytes
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What is extracted: blocks in order, and the clips that are evaluation clips."""

    blocks: tuple[Block, ...]
    evaluation: tuple[Video, ...]


def extract(
    videos: Sequence[Video],
    out: Path,
    *,
    drop_ids: Collection[str] = frozenset(),
    heldout: int = 0,
    stride: int | None = None,
    rate: float | None = None,
    size: tuple[int, int] | None = None,
    quality: int = 90,
    frames_per_shard: int = 4096,
    duplicate_threshold: float = 0.0,
    seed: int = 0,
    workers: int | None = None,
    scratch: Path | None = None,
    clips_per_block: int = 1024,
) -> Path:
    """Extracts the frames of `videos` into shards under `out` and returns the manifest's path.

    Args:
        videos: clips with unique ids.
        drop_ids: ids of evaluation stills; a clip of that id is left out and listed.
        heldout: number of clips, drawn by `seed`, whose frames go into the set "heldout".
        stride, rate, size, quality, duplicate_threshold: see `kdlib.data.decode.Sampling`.
        frames_per_shard: at most so many; the frames of a block are spread evenly.
        seed: draws the held-out clips, the order of clips and the order of frames.
        workers: processes; None = one a core; 1 = none but this one.
        scratch: folder of unfinished work, removed at the end; best on the file system of `out`.
            None = ``out/.parts``; take another where something empties `out` between two calls.
        clips_per_block: clips whose frames are shuffled together; bounds what lies beside shards.

    Returns:
        ``out/manifest.csv``. It appears last, so where it is, everything is.

    Raises:
        ValueError: settings that contradict each other, two clips of one id, no clip left.
        OSError: disk full (with the cure), or another extraction at work in the same folder.

    Earlier shards, manifest and dropped.csv in `out` are replaced.
    """
    sampling = Sampling(stride, rate, size, quality, duplicate_threshold)
    if frames_per_shard < 1 or clips_per_block < 1:
        raise ValueError("frames_per_shard and clips_per_block must be 1 or more")
    plan = make_plan(videos, drop_ids, heldout, seed, clips_per_block)
    out = Path(out)
    scratch = Path(scratch) if scratch else out / ".parts"
    with _alone_in(scratch):
        _continue_or_clear(out, scratch, _fingerprint(plan, sampling, seed, frames_per_shard))
        _make_blocks(plan, out, scratch, sampling, seed, frames_per_shard, workers or cores())
        manifest = _finish(plan, out, scratch, sampling)
        shutil.rmtree(scratch)
    return manifest


def make_plan(
    videos: Sequence[Video], drop_ids: Collection[str], heldout: int, seed: int, per_block: int
) -> Plan:
    """Which clip goes where; see `extract`."""
    uses = Counter(key_of(video.id, 0) for video in videos)
    if len(uses) != len(videos):
        twice = sorted({video.id for video in videos if uses[key_of(video.id, 0)] > 1})
        raise ValueError(f"clip ids must be unique, but these are not: {', '.join(twice[:5])}")
    drop_ids = set(drop_ids)
    evaluation = tuple(video for video in videos if video.id in drop_ids)
    left = [video for video in videos if video.id not in drop_ids]
    left.sort(key=lambda video: drawn(seed, "clip", video.id))
    if not 0 <= heldout < max(len(left), 1):
        raise ValueError(
            f"{heldout} clips are to be held out, but {len(left)} are left of {len(videos)} "
            f"({len(evaluation)} are evaluation clips)"
        )
    if not left:
        raise ValueError(f"no clip is left of {len(videos)}; check the videos folder and drop_ids")
    members = {"pool": left[heldout:], "heldout": left[:heldout]}
    blocks: list[Block] = []
    for name, clips in members.items():
        for number, start in enumerate(range(0, len(clips), per_block)):
            some = tuple(clips[start : start + per_block])
            blocks.append(Block(name, f"{name}-block-{number:05d}", some))
    return Plan(tuple(blocks), evaluation)


def _fingerprint(plan: Plan, sampling: Sampling, seed: int, per_shard: int) -> str:
    """Changes where anything changes that unfinished work depends on."""
    words = [FORM, av.__version__, cv2.__version__, asdict(sampling), seed, per_shard]
    digest = hashlib.sha256(json.dumps(words).encode())
    for block in (*plan.blocks, Block("evaluation", "evaluation", plan.evaluation)):
        digest.update(block.name.encode())
        for video in block.clips:
            try:
                facts = os.stat(video.path)
                state = (facts.st_size, facts.st_mtime_ns)
            except OSError:
                state = ()
            digest.update(json.dumps([video.id, state]).encode())
    return digest.hexdigest()


@contextmanager
def _alone_in(scratch: Path) -> Iterator[None]:
    scratch.mkdir(parents=True, exist_ok=True)
    with (scratch / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            what = f"{scratch}: another extraction is at work here; wait for it or stop it"
            raise OSError(what) from None
        yield


def _continue_or_clear(out: Path, scratch: Path, fingerprint: str) -> None:
    state = scratch / "state"
    if state.is_file() and state.read_text() == fingerprint:
        return
    for path in scratch.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()
    for path in (out / "manifest.csv", out / "dropped.csv", *_shards_in(out)):
        path.unlink(missing_ok=True)
    with whole_file(state) as file:
        file.write(fingerprint.encode())


def _shards_in(folder: Path) -> list[Path]:
    return [path for name in SETS for path in sorted(folder.glob(f"{name}-[0-9]*.tar"))]


def _make_blocks(
    plan: Plan,
    out: Path,
    scratch: Path,
    sampling: Sampling,
    seed: int,
    per_shard: int,
    workers: int,
) -> None:
    """Decodes what is missing and gathers every block that is complete."""
    parts = scratch / "clips"
    parts.mkdir(exist_ok=True)
    missing: dict[str, list[Video]] = {}
    for block in plan.blocks:
        clips = () if finished(block, out, scratch) else block.clips
        missing[block.name] = [one for one in clips if read_part(part_path(parts, one)) is None]
    todo = [video for clips in missing.values() for video in clips]
    tasks = [(video.path, part_path(parts, video), sampling) for video in todo]
    results = work_through(decode_to_part, tasks, max(1, min(workers, len(tasks))))
    clips = sum(len(block.clips) for block in plan.blocks)
    begin, decoded, kept = time.perf_counter(), 0, 0
    shards = dict.fromkeys(SETS, 0)
    with bar(title="frames", total=clips, initial=clips - len(tasks), unit="clip") as progress:
        for block in plan.blocks:
            for video in missing[block.name]:
                result = next(results)
                if result is DIED:
                    lost = header_frames(video.path, sampling)
                    broken = Clip(b"", (), 0, 0, lost, "kills its decoder")
                    write_part(part_path(parts, video), broken)
                    result = (0, 0)
                decoded, kept = decoded + result[0], kept + result[1]
                pace = decoded / (time.perf_counter() - begin)
                progress.set_postfix_str(f"{kept} kept, {pace:.0f} frames/s", refresh=False)
                progress.update()
            done = finished(block, out, scratch)
            if done is None:
                done = gather(block, scratch, parts, shards[block.set], seed, per_shard)
            for video in block.clips:
                part_path(parts, video).unlink(missing_ok=True)
            shards[block.set] += len(done["shards"])
    if tasks:
        spent = time.perf_counter() - begin
        print(f"decoded {decoded} frames of {len(tasks)} clips in {spent:.1f} s: "
              f"{decoded / spent:.0f} frames/s, kept {kept}")  # fmt: skip


def _finish(plan: Plan, out: Path, scratch: Path, sampling: Sampling) -> Path:
    """Moves the shards to their place, and writes dropped.csv and, last, the manifest."""
    notes = [finished(block, out, scratch) for block in plan.blocks]
    out.mkdir(parents=True, exist_ok=True)
    for path in out.glob(".*.draft"):
        path.unlink()
    for path in _shards_in(scratch):
        move(path, out / path.name)
    dropped = [
        (video.id, "evaluation", header_frames(video.path, sampling)) for video in plan.evaluation
    ]
    dropped += [tuple(row) for note in notes for row in note["dropped"]]
    # Written in the scratch folder: a draft that a kill leaves behind must not lie in `out`.
    with whole_file(scratch / "dropped.csv") as file:
        file.write(_rows(("clip", "reason", "count"), *sorted(dropped)))
    with whole_file(scratch / "manifest.csv", sync=True) as file:
        file.write(_rows(COLUMNS))
        for block in plan.blocks:
            with (scratch / f"{block.name}.csv").open("rb") as rows:
                shutil.copyfileobj(rows, file)
    move(scratch / "dropped.csv", out / "dropped.csv")
    move(scratch / "manifest.csv", out / "manifest.csv")
    _tell(plan, notes, dropped)
    if not any(note["kept"] for note in notes):
        log.warning("%s: no frame was kept; see dropped.csv", out)
    return out / "manifest.csv"


def _rows(*rows: Iterable) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _tell(plan: Plan, notes: Sequence[dict], dropped: Sequence[tuple[str, str, int]]) -> None:
    def of(kind: str) -> list[int]:
        return [count for _, reason, count in dropped if reason.startswith(kind)]

    for name in SETS:
        mine = [note for block, note in zip(plan.blocks, notes, strict=True) if block.set == name]
        clips = sum(len(block.clips) for block in plan.blocks if block.set == name)
        shards = [size for note in mine for size in note["shards"].values()]
        print(f"{name}: {sum(note['kept'] for note in mine)} frames of {clips} clips in "
              f"{len(shards)} shards, {sum(shards) / 1e6:.1f} MB")  # fmt: skip
    print(f"dropped: {len(plan.evaluation)} evaluation clips ({sum(of('evaluation'))} frames), "
          f"{len(of('broken'))} broken clips ({sum(of('broken'))} frames), "
          f"{sum(of('near-duplicate'))} near-duplicates")  # fmt: skip
