"""Result records: one JSON file for a run, a scale and a seed; written atomically, read as a table.

A record is the only way from a training run to a table. Its keys are checked when it is written,
so that a misspelt key is found where it was made and not where it is read.
"""

import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from kdlib import files

REQUIRED: dict[str, tuple[type, ...]] = {
    "run": (str,),
    "scale": (str,),
    "seed": (int,),
    "method": (str,),
    "settings_hash": (str,),  # everything that may change a result, but for the seed
    "data_hash": (str,),  # the data that all seeds draw from
    "git_commit": (str, type(None)),
    "git_dirty": (bool, type(None)),
    "lock_hash": (str, type(None)),
    "versions": (dict,),
    "device": (str,),
    "wall_s": (int, float),
    "steps": (int,),
    "samples_seen": (int,),
    "parameters": (int,),
    "metrics": (dict,),
}
OPTIONAL: dict[str, tuple[type, ...]] = {
    "started": (str,),  # UTC, ISO 8601
    "finished": (str,),
    "labels": (int,),  # images whose labels may be used
    "images": (int,),  # all images that training draws from, the labelled ones included
    "samples_hash": (str,),  # the images that this seed drew; differs between seeds
    "title": (str,),
    "extra": (dict,),
}
FRACTIONS = ("miou", "miou_official", "miou_zero", "category_miou", "pixel_accuracy", "pixel")
FRACTIONS += ("map", "box_iou", "f1", "precision", "recall", "miou36", "miou18")
# Name -> fraction, or null where the class is absent; `ap` may have difficulties below its classes.
PER_CLASS = ("iou", "category_iou", "ap")
# Means over some boxes only, null where there are none: map_small, ar_100, agreement on nothing.
PER_GROUP = ("map_", "ar_")
# Of lanes and markings: null where nothing is predicted, where a scenario has no labelled lane, and
# where no class is left for a mean.
OF_LANES = ("precision", "recall", "miou36", "miou18")
SCENARIOS = "scenarios"
# Key under val -> measure. The last of them that a record has is the score of its task.
SCORES = {"miou": "mIoU", "map": "mAP", "f1": "F1"}


class RecordError(ValueError):
    """A record that can't be used; the message names the file, the cause and the cure."""


def write_record(path: Path | str, record: Mapping[str, Any]) -> Path:
    """Check a record and write it as JSON with sorted keys; readers see the old or the new file.

    NaN of a class that does not occur (in `iou`, `category_iou`, `ap`) becomes null; any other
    number that is not finite is refused. Raises RecordError.
    """
    path = Path(path)
    record = _absent_classes(record)
    check_record(record, path)
    text = json.dumps(record, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    files.write(path, (text + "\n").encode())
    return path


def check_record(record: Mapping[str, Any], path: Path | str = "record") -> None:
    """Raise RecordError where a key is missing or misspelt, or a value has a wrong type or range.

    Further keys are allowed, so that a notebook may add facts of its own; a near miss of a known
    key is taken for a slip and refused.
    """
    known = REQUIRED | OPTIONAL
    for key in record:
        if key not in known and (near := difflib.get_close_matches(key, known, 1, 0.85)):
            raise RecordError(f"{path}: unknown key {key!r}; did you mean {near[0]!r}?")
    missing = [key for key in REQUIRED if key not in record]
    if missing:
        raise RecordError(f"{path}: missing {', '.join(missing)}; write the record with these keys")
    for key, kinds in known.items():
        if key in record and not _is_a(record[key], kinds):
            names = " or ".join("null" if k is type(None) else k.__name__ for k in kinds)
            raise RecordError(f"{path}: {key} must be {names}, found {record[key]!r}")
    for key in ("seed", "wall_s", "steps", "samples_seen", "parameters"):
        if not (math.isfinite(record[key]) and record[key] >= 0):
            raise RecordError(f"{path}: {key} must be 0 or more, found {record[key]!r}")
    for name, version in record["versions"].items():
        if not isinstance(version, str):
            raise RecordError(f"{path}: versions.{name} must be text, found {version!r}")
    if not record["metrics"]:
        raise RecordError(f"{path}: metrics is empty; it needs at least one split, such as val")
    for split, metrics in record["metrics"].items():
        if not isinstance(metrics, Mapping):
            raise RecordError(f"{path}: metrics.{split} must be a mapping, found {metrics!r}")
        for keys, value in _leaves(metrics):
            _check_metric(path, f"metrics.{split}." + ".".join(keys), keys, value)


def read_records(folder: Path | str) -> pd.DataFrame:
    """All records under a folder as a table, one row each, sorted by scale, run and seed.

    Nested keys become columns with dots: `val.miou`, `val.iou.road`, `heldout.agreement.kl`,
    `versions.torch`; `path` is the file, relative to the folder; `score` and `measure` are the
    fraction and the name of what the record's task is judged by. Raises RecordError for a damaged
    record, for two records of one run, scale and seed, and for seeds of one run and scale that
    were made with other settings or from other data.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RecordError(
            f"{folder}: no such folder; `dvc repro` or `kdlib run` writes the records"
        )
    rows = [_read(path, folder) for path in sorted(folder.rglob("*.json"))]
    if not rows:
        columns = [*(key for key in REQUIRED if key not in ("metrics", "versions")), "path"]
        return pd.DataFrame(columns=columns)
    table = pd.DataFrame(rows).sort_values(["scale", "run", "seed"], ignore_index=True)
    for (run, scale), group in table.groupby(["run", "scale"]):
        _refuse_mixture(folder, group, f"{run} at scale {scale}")
    return table


def _read(path: Path, folder: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        cure = "restore it from git, or delete it and run `dvc repro`"
        raise RecordError(f"{path}: not valid JSON ({error}); {cure}") from None
    if not isinstance(record, dict):
        raise RecordError(f"{path}: expected an object with keys, found {type(record).__name__}")
    check_record(record, path)
    named = re.fullmatch(r"seed-(\d+)\.json", path.name)
    if named and int(named[1]) != record["seed"]:
        raise RecordError(
            f"{path}: the file name says seed {named[1]}, the record seed {record['seed']}; "
            "a copied record? delete it and run `dvc repro`"
        )
    row = {k: v for k, v in record.items() if k not in ("metrics", "versions", "extra")}
    for name, version in record["versions"].items():
        row[f"versions.{name}"] = version
    for keys, value in _leaves(record["metrics"]):
        row[".".join(keys)] = math.nan if value is None else value
    for key, measure in SCORES.items():
        if f"val.{key}" in row:
            row |= {"score": row[f"val.{key}"], "measure": measure}
    row["path"] = path.relative_to(folder).as_posix()
    return row


def _refuse_mixture(folder: Path, group: pd.DataFrame, what: str) -> None:
    twice = group[group.duplicated("seed", keep=False)]
    if len(twice):
        raise RecordError(
            f"{folder}: two records of {what}, seed {twice['seed'].iloc[0]}: "
            f"{', '.join(twice['path'])}; delete one of them"
        )
    for key, noun in (("settings_hash", "settings"), ("data_hash", "data")):
        if group[key].nunique() > 1:
            found = [f"{h}: {', '.join(rows['path'])}" for h, rows in group.groupby(key)]
            raise RecordError(
                f"{folder}: records of {what} were made with different {noun} "
                f"({key} {'; '.join(found)}); delete the outdated files and run `dvc repro`"
            )


def _absent_classes(node: Any, inside: bool = False) -> Any:
    """A copy in plain Python types, NaN of absent classes as None."""
    if isinstance(node, Mapping):
        return {str(k): _absent_classes(v, inside or k in PER_CLASS) for k, v in node.items()}
    if isinstance(node, list | tuple):
        return [_absent_classes(v, inside) for v in node]
    if hasattr(node, "item") and not isinstance(node, str | bytes):  # numpy and torch scalars
        node = node.item()
    return None if inside and isinstance(node, float) and math.isnan(node) else node


def _leaves(node: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key), value


def _check_metric(path: Path | str, where: str, keys: tuple[str, ...], value: Any) -> None:
    per_class = any(key in PER_CLASS for key in keys[:-1])
    per_group = keys[-1].startswith(PER_GROUP)
    nothing_found = keys[-2:] == ("agreement", "map") or keys[-1] in OF_LANES
    nothing_found = nothing_found or SCENARIOS in keys[:-1]
    if value is None and (per_class or per_group or nothing_found):
        return
    if not _is_a(value, (int, float)) or not math.isfinite(value):
        raise RecordError(f"{path}: {where} must be a finite number, found {value!r}")
    if (keys[-1] in FRACTIONS or per_class or per_group) and not 0 <= value <= 1:
        raise RecordError(f"{path}: {where} must be a fraction from 0 to 1, found {value!r}")
    if keys[-1] == "kl" and value < -1e-6:
        raise RecordError(f"{path}: {where} is a divergence and can't be negative: {value!r}")


def _is_a(value: Any, kinds: tuple[type, ...]) -> bool:
    """isinstance, but True and False are no numbers."""
    return isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
