"""What each run is made from, as small files that DVC compares: resolved settings and data hashes.

    python -m kdlib.notebook inputs 'funmatch-seg-*' funmatch-frames --scale sample --out FOLDER

writes FOLDER/<run>.json. It is the first stage of a pipeline, takes seconds, and runs again when
params.yaml or data/ changes; the stages after it run again only when *their* file came out
different. This is how a change to another run, another scale or another data set retrains nothing,
how a stage finds the data of its scale (DVC's templates can't look a root up by the name of a
scale), and how data sets of a million files, which DVC can't list, still count as a dependency.
"""

import dataclasses
import fnmatch
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from kdlib import files, progress, unlabelled
from kdlib.config import ConfigError, Run, Subset, load_run, read_params
from kdlib.data import layouts, loader

# Above this a tree is known by names and sizes: reading it would take longer than using it.
HASHED_BYTES = 50e9


def write(patterns: list[str], scale: str, out: Path, root: Path) -> list[Path]:
    """A file per run whose name matches one of the patterns; the files, sorted by run.

    Raises ConfigError for a pattern without a match and MissingError where the data are not there.
    """
    names = list(read_params(root / "params.yaml")["runs"])
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ConfigError(f"inputs: no run is called {pattern!r}; known: {', '.join(names)}")
    chosen = sorted({name for pattern in patterns for name in fnmatch.filter(names, pattern)})
    runs = [load_run(name, scale=scale) for name in chosen]
    written = []
    for run in progress.bar(runs, title="inputs"):
        unlabelled.require_data(run, root)
        settings = run.settings()
        body = {"run": run.name, "scale": settings.pop("scale"), "settings": settings}
        body["data"] = data_hashes(run, root)
        path = out / f"{run.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic(path) as temporary:
            Path(temporary).write_text(json.dumps(body, indent=1, sort_keys=True) + "\n")
        written.append(path)
    return written


def data_hashes(run: Run, root: Path) -> dict[str, str]:
    """Hash of the stills, masks and videos of every split that the run reads, by split.

    Whole splits: which stills a seed draws is the run's affair.
    """
    data, place = run.data, root / run.data.root
    layout = layouts.get(data.layout)
    if run.frames is not None:
        clips = tree_hash(video.path for video in unlabelled.videos(run))
        kept_out = "\n".join(sorted(layout.evaluation_ids(place)))
        return {"videos": clips, "evaluation_ids": hashlib.sha256(kept_out.encode()).hexdigest()}
    found = {}
    for subset in (data.labelled, data.report, data.tune, *data.unlabelled):
        if subset is None:
            continue
        whole: Subset = dataclasses.replace(subset, draw=0)
        stills = loader.select(data.layout, place, whole, run.seed)
        both = [(still.image, still.label) for still in stills]
        found[_name(whole)] = tree_hash(p for pair in both for p in pair if p is not None)
    return found


def _name(subset: Subset) -> str:
    words = [subset.split, *subset.drives]
    if subset.take is not None:
        words.append("{}-{}".format(*subset.take))
    if subset.unlisted:
        words.append("unlisted")
    return "/".join(words)


def tree_hash(paths: Iterable[Path]) -> str:
    """One hash for many files, by name and content, or by name and size where they are huge."""
    paths = sorted(paths)
    huge = sum(path.stat().st_size for path in set(paths)) > HASHED_BYTES
    whole = hashlib.sha256()
    for path in paths:
        known_by = path.stat().st_size if huge else files.content_hash(path)
        whole.update(f"{path.name} {known_by}\n".encode())
    return whole.hexdigest()[:32] + (" (names and sizes)" if huge else "")
