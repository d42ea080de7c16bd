"""Bringing back the pinned data: found, pulled from a DVC remote, or rendered and checked.

`data.dvc` holds one hash for the whole tree, as DVC forms it: the MD5 of a JSON list of every
file's MD5 and path. `manifest.csv.gz` in this folder holds the hash of every file, so that a tree
with other bytes can be told file by file. DVC itself is only asked to pull and to commit.
"""

import csv
import gzip
import hashlib
import io
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ruamel.yaml import YAML

from kdlib.simulate import dataset
from kdlib.simulate.files import files_below, write_bytes
from kdlib.simulate.parallel import cores

MANIFEST = Path(__file__).with_name("manifest.csv.gz")
NAMED = 20  # at most this many differing files are named


class DataError(RuntimeError):
    """The data can't be brought to the pinned bytes; the message says what differs."""


def md5(path: Path) -> str:
    """The MD5 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest()


def tree_hashes(root: Path) -> dict[str, str]:
    """MD5 by path relative to `root`, for every file of a tree."""
    paths = list(files_below(root))
    with ThreadPoolExecutor(cores()) as pool:
        hashes = pool.map(md5, paths)
        return {p.relative_to(root).as_posix(): h for p, h in zip(paths, hashes, strict=True)}


def tree_hash(hashes: dict[str, str]) -> str:
    """The hash that DVC gives to a folder with these files."""
    rows = [{"md5": hashes[path], "relpath": path} for path in sorted(hashes)]
    return hashlib.md5(json.dumps(rows, sort_keys=True).encode()).hexdigest() + ".dir"


def read_pin(pin: Path) -> tuple[str, Path]:
    """The pinned hash and the folder that it is of."""
    if not pin.exists():
        raise DataError(
            f"{pin}: there is no such file, but it says which data; bring it back with git"
        )
    out = YAML(typ="safe").load(pin.read_text())["outs"][0]
    return out["md5"], pin.parent / out["path"]


def write_manifest(root: Path, path: Path = MANIFEST) -> None:
    """Write every file's hash and path, for `compare`."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerows((value, name) for name, value in sorted(tree_hashes(root).items()))
    write_bytes(path, gzip.compress(text.getvalue().encode(), mtime=0))
    print(f"{path}: {len(text.getvalue().splitlines())} files")


def read_manifest(path: Path = MANIFEST) -> dict[str, str]:
    """What `write_manifest` wrote."""
    text = gzip.decompress(path.read_bytes()).decode()
    return {name: value for value, name in csv.reader(io.StringIO(text))}


def compare(found: dict[str, str], pinned: dict[str, str]) -> list[str]:
    """One line for every file that is missing, too many, or has other bytes."""
    lines = []
    for name in sorted(found.keys() | pinned.keys()):
        if name not in found:
            lines.append(f"missing: {name}")
        elif name not in pinned:
            lines.append(f"not pinned: {name}")
        elif found[name] != pinned[name]:
            lines.append(f"other bytes: {name} (md5 {found[name]}, pinned {pinned[name]})")
    return lines


def check(root: Path, wanted: str, manifest: Path = MANIFEST) -> None:
    """Raise DataError, naming the files that differ, unless the tree has the pinned hash."""
    found = tree_hashes(root)
    if tree_hash(found) == wanted:
        return
    lines = compare(found, read_manifest(manifest))
    more = f"\n  and {len(lines) - NAMED} more" if len(lines) > NAMED else ""
    raise DataError(
        f"{root}: these are not the pinned bytes (hash {tree_hash(found)}, pinned {wanted}).\n  "
        + "\n  ".join(
            lines[:NAMED] or ["every file agrees with the manifest: it is not of this pin"]
        )
        + more
        + "\nThe versions of numpy, opencv and av in requirements.lock render the pinned bytes: "
        f"check them, remove {root} and run `make data` again."
    )


def dvc(folder: Path, *arguments: str) -> str | None:
    """Run DVC in a folder; what it printed, or None when it failed."""
    command = [sys.executable, "-m", "dvc", *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return result.stdout if result.returncode == 0 else None


def fetch(pin: Path) -> bool:
    """Whether DVC could bring the data back, from its cache here or from a remote."""
    here = pin.parent
    if not (here / ".dvc").is_dir():
        return False
    if dvc(here, "checkout", "--quiet", pin.name) is not None:
        return True
    if (dvc(here, "remote", "list") or "").strip():
        print(f"{pin}: pulling from the DVC remote")
        return dvc(here, "pull", pin.name) is not None
    return False


def restore(
    pin: Path,
    workers: int | None = None,
    recipe: dataset.Recipe = dataset.PINNED,
    manifest: Path = MANIFEST,
) -> int:
    """Make the pinned folder hold the pinned bytes; 0, or 1 after saying what differs."""
    try:
        wanted, root = read_pin(pin)
        if root.exists() and tree_hash(tree_hashes(root)) == wanted:
            print(f"{root}: holds the pinned bytes already")
            return 0
        if not root.exists() and fetch(pin):
            check(root, wanted, manifest)
            print(f"{root}: brought back by DVC")
            return 0
        dataset.make(recipe, root, workers)
        check(root, wanted, manifest)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    # Into DVC's cache, so that the next `dvc repro` finds data/ as data.dvc says. No hash changes.
    if (pin.parent / ".dvc").is_dir():
        dvc(pin.parent, "commit", "--force", "--quiet", pin.name)
    print(f"{root}: rendered, and the bytes are the pinned ones")
    return 0
