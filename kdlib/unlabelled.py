"""Data on disk before training: the tree a run reads, and the clipping of its unlabelled frames.

Apart from `kdlib.experiment`, so that the frames stage depends on nothing that trains: 16 million
frames are not clipped again because a loss has changed.
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from kdlib import config, files
from kdlib.config import Run
from kdlib.data import frames, layouts
from kdlib.data.layouts.sample import Video

SMOKE_DATA = Path(".cache/smoke-data")
RECIPE = Path(__file__).parent / "simulate" / "recipe.py"
VIDEO_FILES = (".mov", ".mp4", ".mkv", ".avi")


class MissingError(RuntimeError):
    """Something that an earlier step makes is not there; the message names the step."""


def require_data(run: Run, root: Path) -> None:
    """Check that the run's data tree is there; at smoke scale it is rendered on the spot.

    Raises MissingError.
    """
    place = root / run.data.root
    if run.scale == "smoke":
        _render_smoke_data(root)
    if not place.is_dir():
        raise MissingError(
            f"{place}: no such folder. `make data` restores the simulated data; other data sets "
            "are put there by hand (README, section on real data)."
        )


def _render_smoke_data(root: Path) -> None:
    """Make the tiny data, unless they are there and of the present recipe."""
    with files.alone(root / f"{SMOKE_DATA}.lock"):  # not by two processes at once
        _render_alone(root)


def _render_alone(root: Path) -> None:
    whole, recipe = root / SMOKE_DATA, hashlib.sha256(RECIPE.read_bytes()).hexdigest()
    mark = whole / ".recipe"
    if mark.is_file() and mark.read_text(encoding="utf-8") == recipe:
        return
    # Under another name until it is whole: a killed rendering is finished by the next call.
    draft = root / f"{SMOKE_DATA}.draft"
    command = [sys.executable, "-m", "kdlib.simulate", "data", "--preset", "smoke"]
    subprocess.run([*command, "--out", str(draft)], cwd=root, check=True)
    (draft / mark.name).write_text(recipe, encoding="utf-8")
    shutil.rmtree(whole, ignore_errors=True)
    draft.rename(whole)


def videos(run: Run) -> list[Video]:
    """The clips that a frames run reads, evaluation clips included."""
    root, data, how = config.repository(), run.data, run.frames
    if how.folder is not None:
        found = sorted(p for p in (root / how.folder).iterdir() if p.suffix in VIDEO_FILES)
        return [Video(path.stem, path) for path in found]
    layout = layouts.get(data.layout)
    return [v for split in how.splits for v in layout.videos(root / data.root, split)]


def extract_frames(run: Run) -> Path:
    """Clip the run's unlabelled frames into shards; the manifest's path. See kdlib.data.frames."""
    root, how = config.repository(), run.frames
    require_data(run, root)
    manifest = frames.extract(
        videos(run),
        root / run.folder,
        drop_ids=layouts.get(run.data.layout).evaluation_ids(root / run.data.root),
        heldout=how.heldout,
        stride=how.stride,
        rate=how.rate,
        size=how.size,
        quality=how.quality,
        frames_per_shard=how.frames_per_shard,
        duplicate_threshold=how.duplicate_threshold,
        seed=run.seed,
        # Outside the run's folder, which DVC empties before a stage runs again.
        scratch=root / ".cache" / "resume" / f"{run.name}-{run.scale}",
    )
    files.write(settings_note(run, root), run.settings_hash().encode())
    return manifest


def settings_note(run: Run, root: Path) -> Path:
    """Where the hash of the settings is kept that a run's frames were last clipped with.

    Outside the run's folder: DVC restores frames of earlier settings, and there the note is wrong.
    """
    return root / ".cache" / "frames" / f"{run.name}-{run.scale}"
