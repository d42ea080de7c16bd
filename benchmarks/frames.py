"""Frame extraction against the ffmpeg program doing the same, on the clips of a folder.

    python benchmarks/frames.py FOLDER [--loops 4] [--rounds 3] [--rate 4.0] [--size 360x640]

Both decode every clip once, take `rate` frames a second and write JPEGs; ffmpeg writes one file a
frame (``-q:v 2``), kdlib writes shards and a manifest with hashes. ffmpeg runs in its two usual
ways: one clip after the other with its own threads, and one single-threaded process a core. Rounds
alternate, the median counts; CPU seconds tell more than the clock on a busy machine. From the rates
follow the hours and terabytes of BDD100K's 100,000 videos (40 s at 30 Hz: 120 million frames) and
of 16 million stored frames.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kdlib.data.crew import cores
from kdlib.data.frames import extract
from kdlib.data.layouts import Video

VIDEOS, FRAMES, STORED = 100_000, 100_000 * 40 * 30, 16_000_000


def ffmpeg(videos: list[Video], out: Path, rate: float, size: tuple | None, threads: int) -> None:
    """One process a clip; `threads` 0 leaves the threads to ffmpeg, 1 runs a process a core."""

    def run(video: Video) -> None:
        scale = f",scale={size[1]}:{size[0]}:flags=area" if size else ""
        command = ["ffmpeg", "-v", "error", "-threads", str(threads), "-i", str(video.path)]
        command += ["-vf", f"fps={rate}{scale}", "-q:v", "2", "-threads", str(threads)]
        subprocess.run([*command, str(out / f"{video.id}_%d.jpg")], check=True)

    with ThreadPoolExecutor(cores() if threads == 1 else 1) as pool:
        list(pool.map(run, videos))


def timed(work: Callable[[Path], object]) -> tuple[float, float, int]:
    """Seconds and CPU seconds that `work` took in an empty folder, and bytes that it left there."""
    folder = Path(tempfile.mkdtemp())
    try:
        begin, before = time.perf_counter(), sum(os.times()[:4])
        work(folder)
        spent, busy = time.perf_counter() - begin, sum(os.times()[:4]) - before
        return spent, busy, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    finally:
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--loops", type=int, default=4, help="how often each clip is taken")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=4.0)
    parser.add_argument("--size", help="HEIGHTxWIDTH; default as decoded")
    options = parser.parse_args()
    size = tuple(map(int, options.size.split("x"))) if options.size else None
    found = sorted(path for path in options.folder.iterdir() if path.suffix in (".mp4", ".mov"))
    if not found:
        print(f"{options.folder} holds no .mp4 or .mov; nothing to measure")
        return
    if shutil.which("ffmpeg") is None:
        print("the ffmpeg program is not on the PATH; nothing to compare with")
        return
    videos = [Video(f"{n}-{path.stem}", path) for n in range(options.loops) for path in found]
    counts: dict[str, int] = {}

    def ours(out: Path) -> None:
        manifest = extract(videos, out, rate=options.rate, size=size)
        counts["kept"] = sum(1 for _ in manifest.open()) - 1

    ways: dict[str, Callable[[Path], object]] = {
        "kdlib, a process a core": ours,
        "ffmpeg, a process a core": lambda out: ffmpeg(videos, out, options.rate, size, 1),
        "ffmpeg, own threads": lambda out: ffmpeg(videos, out, options.rate, size, 0),
    }
    import av

    total = 0
    for path in found:
        with av.open(str(path)) as container:
            total += container.streams.video[0].frames * options.loops
    timed(ours)  # warm: imports, file cache
    spent: dict[str, list[float]] = {name: [] for name in ways}
    busy: dict[str, list[float]] = {name: [] for name in ways}
    size_of: dict[str, int] = {}
    for _ in range(options.rounds):
        for name, work in ways.items():
            seconds, cpu, size_of[name] = timed(work)
            spent[name].append(seconds)
            busy[name].append(cpu)
    pace = {name: total / statistics.median(seconds) for name, seconds in spent.items()}
    lean = {name: total / statistics.median(seconds) for name, seconds in busy.items()}
    print(f"\n{len(videos)} clips, {total} frames read, {counts['kept']} kept, {cores()} cores")
    print(f"{'way':<26}{'frames/s':>10}{'ratio':>7}{'frames/CPU s':>14}{'ratio':>7}{'MB':>8}")
    ours_is = "kdlib, a process a core"
    mine = pace[ours_is]
    for name, rate in pace.items():
        ratios = f"{mine / rate:>7.2f}{lean[name]:>14.0f}{lean[ours_is] / lean[name]:>7.2f}"
        print(f"{name:<26}{rate:>10.0f}{ratios}{size_of[name] / 1e6:>8.1f}")
    each = size_of[ours_is] / counts["kept"]
    now, busy_hours = FRAMES / mine / 3600, FRAMES / lean[ours_is] / 3600
    print(
        f"\n{VIDEOS:,} videos = {FRAMES:,} frames: {now:.0f} h on these {cores()} cores, "
        f"{busy_hours:.0f} CPU hours.\n{each / 1e3:.0f} kB a frame: "
        f"{STORED * each / 1e12:.2f} TB for {STORED:,} frames."
    )


if __name__ == "__main__":
    main()
