"""Further clips on demand, as videos and, when asked, with a mask for every frame."""

import argparse
import time
from functools import partial
from pathlib import Path

from kdlib.simulate.files import clip_id, remove_parts, write_png, write_video
from kdlib.simulate.parallel import progress, spread
from kdlib.simulate.render import Renderer


def render_clip(number: int, *, out: Path, world: str, frames: int, fps, size, labels: bool) -> int:
    """Render clip `number` (seed more/<number>) unless its video is there; the frames rendered.

    Masks go to labels/<id>/<frame>.png. The video is written last, so it marks the clip as done.
    """
    seed = f"more/{number}"
    name = clip_id(f"{world}/{seed}")
    path = out / "videos" / f"{name}.mov"
    if path.exists():
        return 0
    renderer = Renderer(seed, world, size, max(float(frames / fps), 10.0))

    def images():
        for k in range(frames):
            frame = renderer.frame(float(k / fps))
            if labels:
                write_png(out / "labels" / name / f"{k:07d}.png", frame.label)
            yield frame.image

    return write_video(path, images(), fps)


def make(options: argparse.Namespace) -> None:
    """Render the clips that the command line asks for."""
    remove_parts(options.out)
    numbers = range(options.first_seed, options.first_seed + options.count)
    work = partial(
        render_clip,
        out=options.out,
        world=options.world,
        frames=options.frames,
        fps=options.fps,
        size=options.size,
        labels=options.labels,
    )
    started, total = time.perf_counter(), 0
    with progress(len(numbers), "clips") as bar:
        for done in spread(work, numbers, options.workers):
            total += done
            bar.update()
    seconds = time.perf_counter() - started
    print(f"{options.out}: {total} frames in {seconds:.1f} s, {total / seconds:.0f} frames/s")
