"""Shards: the frames of a block of clips, shuffled together into WebDataset tars."""

import csv
import hashlib
import io
import json
import logging
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdlib.data.decode import Frame
from kdlib.data.layouts.sample import Video
from kdlib.data.manifest import key_of
from kdlib.data.parts import Part, read_part, whole_file

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Block:
    """Clips whose frames are shuffled together; `name` is unique within one extraction."""

    set: str
    name: str
    clips: tuple[Video, ...]


def drawn(seed: int, *words: object) -> bytes:
    """A draw by seed and words; things sorted by it are in random order."""
    text = "/".join(map(str, (seed, *words)))
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def part_path(parts: Path, video: Video) -> Path:
    """Where the part file of a clip lies."""
    return parts / f"{video.id}.part"


def finished(block: Block, out: Path, scratch: Path) -> dict | None:
    """What a finished block noted, or None where the block or one of its shards is not there."""
    try:
        done = json.loads((scratch / f"{block.name}.json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    for name, size in done["shards"].items():
        if not any(_size(folder / name) == size for folder in (scratch, out)):
            return None
    return done


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def gather(
    block: Block, scratch: Path, parts: Path, first_shard: int, seed: int, per_shard: int
) -> dict:
    """Writes a block's shards, its rows of the manifest, and last the note that it is done."""
    members: list[tuple[str, Part, Frame]] = []
    dropped: list[tuple[str, str, int]] = []
    decoded = 0
    for video in block.clips:
        part = read_part(part_path(parts, video))
        if part is None:
            raise OSError(f"{part_path(parts, video)}: vanished; run the same command again")
        decoded += part.decoded
        members += [(video.id, part, frame) for frame in part.frames]
        if part.duplicates:
            dropped.append((video.id, "near-duplicate", part.duplicates))
        if part.broken:
            log.warning("%s: %s; %d frames kept", video.path, part.broken, len(part.frames))
            lost = max(0, part.expected - len(part.frames) - part.duplicates)
            dropped.append((video.id, f"broken: {part.broken}", lost))
    members.sort(key=lambda member: drawn(seed, "frame", key_of(member[0], member[2].frame)))
    count = -(-len(members) // per_shard)
    edges = [len(members) * index // max(count, 1) for index in range(count + 1)]
    sizes: dict[str, int] = {}
    with whole_file(scratch / f"{block.name}.csv") as file:
        rows = io.TextIOWrapper(file, encoding="utf-8", newline="")
        table = csv.writer(rows, lineterminator="\n")
        for index in range(count):
            shard = f"{block.set}-{first_shard + index:06d}.tar"
            table.writerows(
                (block.set, shard, *row)
                for row in write_shard(scratch / shard, members[edges[index] : edges[index + 1]])
            )
            sizes[shard] = (scratch / shard).stat().st_size
        rows.flush()
        rows.detach()
    done = {"shards": sizes, "dropped": dropped, "decoded": decoded, "kept": len(members)}
    with whole_file(scratch / f"{block.name}.json") as file:
        file.write(json.dumps(done).encode())
    return done


def write_shard(path: Path, members: Sequence[tuple[str, Part, Frame]]) -> list[tuple]:
    """Writes one tar of (clip, part, frame) and returns its manifest rows from the key on.

    A WebDataset shard is a plain tar whose members are named by key and kind. It is written by the
    standard library, because webdataset brings torch along and hides where a member lies. Owner,
    time and mode are fixed, so equal frames give equal bytes.
    """
    rows = []
    with (
        whole_file(path, sync=True) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for clip, part, frame in members:
            key = key_of(clip, frame.frame)
            member = tarfile.TarInfo(f"{key}.jpg")  # modified in 1970, owned by number 0
            member.size, member.mode = frame.bytes, 0o444
            tar.addfile(member, io.BytesIO(part.jpeg(frame)))
            padded = -(-frame.bytes // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            facts = (frame.height, frame.width, tar.offset - padded, frame.bytes, frame.sha256)
            rows.append((key, clip, frame.frame, f"{frame.time_s:.6f}", *facts))
    return rows
