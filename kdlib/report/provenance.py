"""Where a result comes from: commit, lock file, package versions, device, data and dates.

Nothing that names a person or a machine is recorded: a device is its model, not its host name.
"""

import hashlib
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from kdlib.report.records import RecordError

PACKAGES = {  # name in the record -> distributions that may hold it
    "torch": ("torch",),
    "torchvision": ("torchvision",),
    "numpy": ("numpy",),
    "numba": ("numba",),
    "opencv": ("opencv-python-headless", "opencv-python"),
    "kdlib": ("kdlib",),
}
# What the pipeline writes into the work tree while it runs does not make the code another one.
WRITTEN = ("results", "dvc.lock", "evidence/**/dvc.lock", "notebooks/**/*.ipynb", "README.md")


def provenance(
    root: Path | str | None = None,
    *,
    data_hash: str | None = None,
    device: str | None = None,
    started: datetime | float | None = None,
    finished: datetime | float | None = None,
) -> dict[str, Any]:
    """The part of a record that does not depend on the run's result.

    root: the repository; None = the one that this file lies in. data_hash: None = the md5 that
    `data.dvc` pins; a run on other data gives `tree_hash` of its folder. device: its model, of
    `runtime.device_name`; None where the run's facts name it. started, finished: a datetime, or
    seconds since the epoch; a finish that is not given is now.

    Keys: git_commit and git_dirty (None without git), lock_hash (sha256 of requirements.lock, None
    without one), data_hash, versions, finished; device and started where they are given.
    """
    root = Path(root) if root is not None else Path(__file__).resolve().parents[2]
    commit, dirty = git_state(root)
    facts = {
        "git_commit": commit,
        "git_dirty": dirty,
        "lock_hash": lock_hash(root),
        "data_hash": pinned_data_hash(root) if data_hash is None else data_hash,
        "versions": versions(),
        "finished": utc(finished if finished is not None else datetime.now(UTC)),
    }
    if started is not None:
        facts["started"] = utc(started)
    if device is not None:
        facts["device"] = device
    return facts


def complete(facts: Mapping[str, Any], origin: Mapping[str, Any]) -> dict[str, Any]:
    """A whole record from a run's own facts and its `provenance`, ready for `write_record`.

    The data hash of the record is that of the data which all seeds draw from; a data hash among the
    facts covers what one seed drew and becomes `samples_hash`. Other facts win over the origin.
    """
    record = {**origin, **facts, "data_hash": origin["data_hash"]}
    drawn = facts.get("data_hash")
    return record if drawn in (None, origin["data_hash"]) else record | {"samples_hash": drawn}


def tree_hash(folder: Path | str) -> str:
    """sha256 over the names and bytes of all files under a folder, hidden ones left out."""
    folder = Path(folder)
    if not folder.is_dir():
        raise RecordError(f"{folder}: no such folder, so the data have no hash; give its place")
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            total.update(f"{name.as_posix()}\0{digest}\n".encode())
    return total.hexdigest()


def git_state(root: Path) -> tuple[str | None, bool | None]:
    """Commit of a work tree, and whether its sources differ from it; (None, None) without git."""
    top = _git(root, "rev-parse", "--show-toplevel")
    if not top or Path(top).resolve() != root.resolve():  # a copy inside somebody else's repository
        return None, None
    commit = _git(root, "rev-parse", "HEAD")
    if not commit:
        return None, None
    ignored = [f":(exclude,glob){name}{tail}" for name in WRITTEN for tail in ("", "/**")]
    changes = _git(root, "status", "--porcelain", "--", ".", *ignored)
    return commit, None if changes is None else bool(changes)


def lock_hash(root: Path) -> str | None:
    """sha256 of requirements.lock; None where there is none."""
    lock = root / "requirements.lock"
    return hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else None


def pinned_data_hash(root: Path, name: str = "data.dvc") -> str:
    """The md5 by which a .dvc file pins its folder. Raises RecordError where it can't be read."""
    path = root / name
    try:
        (out,) = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))["outs"]
        return str(out["md5"])
    except FileNotFoundError:
        cure = "give data_hash, or restore the file from git"
        raise RecordError(f"{path}: no such file, so the data have no hash; {cure}") from None
    except (KeyError, TypeError, ValueError) as error:
        cure = "expected one `outs` entry with an md5; restore the file from git"
        raise RecordError(f"{path}: {cure} ({error})") from None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result; absent ones are left out."""
    found = {"python": platform.python_version()}
    for name, distributions in PACKAGES.items():
        for distribution in distributions:
            try:
                found[name] = metadata.version(distribution)
                break
            except metadata.PackageNotFoundError:
                continue
    return found


def utc(moment: datetime | float) -> str:
    """ISO 8601 in UTC, to the second."""
    if not isinstance(moment, datetime):
        moment = datetime.fromtimestamp(moment, UTC)
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _git(root: Path, *arguments: str) -> str | None:
    """Output of a git command; None where git is absent or refuses."""
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
