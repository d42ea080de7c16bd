"""What a run is made of: named blocks of `params.yaml`, read into frozen dataclasses.

A notebook takes the *name* of a run. This module looks the name up, applies the block that it
extends and the overrides of the chosen scale, and checks every key and every type before any work
starts. Nothing here imports torch, so a typing error costs a fraction of a second.

How a block is put together, later lines winning:

    runs.<ancestor>  ...  runs.<name>                 what the run is, at `sample` scale
    scales.<scale>.common                             what the scale changes for every run
    scales.<scale>.runs.<ancestor> ... .<name>        what the scale changes for this run
"""

import dataclasses
import difflib
import hashlib
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

Scale = Literal["smoke", "sample", "gpu", "paper"]
SCALES: tuple[str, ...] = typing.get_args(Scale)


class ConfigError(ValueError):
    """A parameter file that can't be used; the message says where and what is allowed."""


@dataclass(frozen=True)
class Subset:
    """Which stills of a data set: an official split, narrowed by drive, by range, by drawing."""

    split: str  # official split name: train, val, test
    drives: tuple[str, ...] = ()  # ids that start with one of these; empty = all
    take: tuple[int, int] | None = None  # [from, to) over the sorted ids; None = all
    draw: int = 0  # draw this many, by the run's seed; 0 = all


@dataclass(frozen=True)
class Data:
    """Where images and labels come from, and which of them play which part."""

    layout: str  # a module of kdlib.data.layouts: bdd100k, camvid, cityscapes, ade20k
    root: str  # folder of the official tree, relative to the repository
    size: tuple[int, int]  # (height, width) to which images are resized when read, pixels
    labelled: Subset  # images whose labels train the teacher and the supervised student
    report: Subset  # the reported split; nothing is chosen on it
    tune: Subset | None = None  # held-out part of the training split, for choosing settings
    unlabelled: tuple[Subset, ...] = ()  # stills that join the pool without their labels
    frames: str | None = None  # run whose shards hold the unlabelled video frames
    pool: int = 0  # how many of those frames to use; 0 = all


@dataclass(frozen=True)
class Frames:
    """How unlabelled frames are clipped from videos (only the `frames` runs have this)."""

    splits: tuple[str, ...] = ("train",)  # video splits of the layout that are read
    folder: str | None = None  # or a plain folder of videos, relative to the repository
    stride: int | None = None  # every k-th frame; exactly one of stride and rate is given
    rate: float | None = None  # frames a second of video time
    size: tuple[int, int] | None = None  # (height, width) stored; None = as decoded
    quality: int = 90  # JPEG quality
    heldout: int = 0  # clips kept apart to measure agreement on unseen frames
    duplicate_threshold: float = 0.0  # mean grey difference (0..255) under which a frame is dropped
    frames_per_shard: int = 4096


@dataclass(frozen=True)
class Augment:
    """Random views, drawn per image and applied on the device."""

    zoom: tuple[float, float] = (1.0, 1.25)  # under 1 shows padding, which no loss counts
    flip: float = 0.5  # probability of a left-right flip
    colour: float = 0.1  # +- share of brightness, contrast, saturation and channel gain
    crop: tuple[int, int] | None = None  # (height, width) of the view; None = data.size


@dataclass(frozen=True)
class Model:
    """A network: architecture name and its options; None leaves the network's own default."""

    architecture: str
    depth: int | None = None  # ResNet 18, 34, 50, 101
    blocks: tuple[int, ...] | None = None  # residual blocks per stage, instead of a depth
    width: int | None = None  # channels of the first stage; torchvision's are 64
    output_stride: int | None = None
    stem: Literal["imagenet", "small"] | None = None
    norm: Literal["batch", "group"] | None = None
    aux: bool | None = None  # auxiliary head
    shrink: int | None = None  # average this many pixels a side of the input first


@dataclass(frozen=True)
class Structured:
    """Structured distillation: which terms join the cross entropy, and under whose weights."""

    terms: tuple[Literal["pixelwise", "pairwise", "holistic"], ...]
    weights: Literal["paper", "journal-default", "journal-script", "conference"]
    window: int | None = None  # pixels a side of a pair-wise node; None = as the weights' source
    critic: Literal["wgan-gp", "hinge"] | None = None  # None = as the weights' source
    critic_blocks: int = 4  # fewer for logits under 64 pixels a side
    unlabelled: bool = False  # unlabelled images join; the terms but the cross entropy count there


@dataclass(frozen=True)
class Method:
    """What the student learns from."""

    name: Literal["supervised", "distil", "matching", "structured"]
    temperature: float = 1.0
    mixup: bool = False  # matching: blend each image with its neighbour in the batch
    label_weight: float = 0.0  # distil: weight of the cross entropy with the labels
    class_weights: Literal["none", "inverse-sqrt"] = "none"  # of the labelled images' frequencies
    structured: Structured | None = None

    def __post_init__(self):
        if (self.name == "structured") != (self.structured is not None):
            raise ConfigError(
                f"method.structured: {self.name} "
                + ("needs this block" if self.structured is None else "has none, only structured")
            )
        for key, only in (("mixup", "matching"), ("label_weight", "distil")):
            if getattr(self, key) and self.name != only:
                raise ConfigError(f"method.{key}: {self.name} has none, only {only} does")


@dataclass(frozen=True)
class Schedule:
    """How long and how fast."""

    steps: int
    batch: int
    lr: float
    optimiser: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = 0.01  # on matrices only for adamw, on everything for sgd
    decay: Literal["cosine", "poly"] = "cosine"
    warmup: int = 0  # steps of linear warm-up
    clip_norm: float = 0.0  # 0 = no gradient clipping
    ema: float = 0.0  # decay of averaged weights, which are then the result; 0 = off
    workers: int = 1  # loader processes
    save_every_s: float = 60.0  # seconds between two resume points
    precision: Literal["auto", "float32", "bf16"] = "auto"
    compile: bool = False


@dataclass(frozen=True)
class Run:
    """One run, wholly specified. `shared` runs are made once, with seed 0, for all seeds."""

    name: str
    scale: str
    seed: int
    data: Data
    frames: Frames | None = None
    model: Model | None = None
    method: Method | None = None
    schedule: Schedule | None = None
    augment: Augment = field(default_factory=Augment)
    teacher: str | None = None  # run that made the teacher
    init: str | None = None  # None = random, "imagenet", or a run whose weights are the start
    released: str | None = None  # file of weights from elsewhere, relative to the repository
    shared: bool = False
    title: str = ""  # the row's name in tables

    @property
    def folder(self) -> Path:
        """Outputs of the run, relative to the repository."""
        return Path("runs") / self.scale / self.name / f"seed-{self.seed}"

    @property
    def record(self) -> Path:
        """The run's result record, relative to the repository; paper = first part of the name."""
        records = Path("results") / self.name.split("-")[0] / "records"
        return records / self.scale / self.name / f"seed-{self.seed}.json"

    def settings(self) -> dict[str, Any]:
        """Everything that may change a result, but for the seed."""
        settings = dataclasses.asdict(self)
        for key in ("name", "seed", "title"):
            settings.pop(key)
        for key in ("workers", "save_every_s"):
            (settings["schedule"] or {}).pop(key, None)
        # The block of another method changes nothing here.
        method = settings["method"] or {}
        settings["method"] = {k: v for k, v in method.items() if v is not None} or None
        return settings

    def settings_hash(self) -> str:
        """Hash of `settings`."""
        text = json.dumps(self.settings(), sort_keys=True, default=list)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def repository() -> Path:
    """The repository in use: the nearest folder upwards that holds `dvc.yaml` and `params.yaml`."""
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file() and (folder / "params.yaml").is_file():
            return folder
    raise ConfigError(
        f"{here}: neither this folder nor one above it holds dvc.yaml and params.yaml. "
        "Start from inside a clone of the workbook."
    )


def load_run(name: str, *, scale: str | None = None, seed: int = 0) -> Run:
    """The run called `name` at a scale (None: the `scale` of params.yaml), for a seed.

    Raises ConfigError for an unknown name, scale or key, a missing key and a value of a wrong type.
    """
    return build_run(read_params(repository() / "params.yaml"), name, scale=scale, seed=seed)


def build_run(params: dict[str, Any], name: str, *, scale: str | None = None, seed: int = 0) -> Run:
    """As `load_run`, from a parameter file that was read before."""
    scale = params["scale"] if scale is None else scale
    _one_of(scale, SCALES, "scale")
    block = resolve(params, name, scale)
    seed = 0 if block.get("shared", False) else seed
    return _build(Run, {"name": name, "scale": scale, "seed": seed, **block}, f"runs.{name}")


def read_params(path: Path) -> dict[str, Any]:
    """The parameter file, as YAML 1.2, with its top level checked."""
    try:
        params = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    expected = {"scale", "seeds", "scales", "runs"}
    if not isinstance(params, dict) or set(params) != expected:
        found = sorted(params) if isinstance(params, dict) else type(params).__name__
        raise ConfigError(f"{path}: top level must be {sorted(expected)}, found {found}")
    seeds = params["seeds"]
    if not isinstance(seeds, list) or not all(type(seed) is int for seed in seeds):
        raise ConfigError(f"{path}: seeds: expected a list of integers, found {seeds!r}")
    for scale, block in _blocks(params["scales"], f"{path}: scales").items():
        _one_of(scale, SCALES, f"{path}: scales")
        for key in _blocks(block, f"{path}: scales.{scale}"):
            _one_of(key, ("common", "runs"), f"{path}: scales.{scale}")
        _check_keys(block.get("common", {}), f"{path}: scales.{scale}.common")
        for run, overrides in block.get("runs", {}).items():
            _one_of(run, params["runs"], f"{path}: scales.{scale}.runs")
            _check_keys(overrides, f"{path}: scales.{scale}.runs.{run}")
    for run, block in _blocks(params["runs"], f"{path}: runs").items():
        _check_keys(block, f"{path}: runs.{run}")
    return params


def _blocks(value: Any, where: str) -> dict[str, Any]:
    """The value, which must be a mapping of blocks."""
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected a block of keys, found {value!r}")
    for key, block in value.items():
        if not isinstance(block, dict):
            raise ConfigError(f"{where}.{key}: expected a block of keys, found {block!r}")
    return value


def _check_keys(block: Any, where: str) -> None:
    """Check the top keys of a run's block; what lies below is checked with the types."""
    keys = {part.name for part in dataclasses.fields(Run)} - {"name", "scale", "seed"}
    if not isinstance(block, dict):
        raise ConfigError(f"{where}: expected a block of keys, found {block!r}")
    for key in block:
        _one_of(key, sorted(keys | {"extends"}), where)


def ancestry(params: dict[str, Any], name: str) -> list[str]:
    """The run's blocks, oldest ancestor first, the run itself last."""
    chain: list[str] = []
    current: str | None = name
    while current is not None:
        _one_of(current, params["runs"], "run")
        if current in chain:
            raise ConfigError(f"runs.{name}: `extends` runs in a circle: {' -> '.join(chain)}")
        chain.append(current)
        current = params["runs"][current].get("extends")
    return chain[::-1]


def resolve(params: dict[str, Any], name: str, scale: str) -> dict[str, Any]:
    """The run's block after `extends` and the scale's overrides, not yet checked."""
    chain = ancestry(params, name)
    overrides = params["scales"].get(scale, {})
    layers = [params["runs"][run] for run in chain]
    layers.append(overrides.get("common", {}))
    layers += [overrides.get("runs", {}).get(run, {}) for run in chain]
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _merge(merged, layer)
    merged.pop("extends", None)
    # A scale's common overrides speak to every run; a run that lacks the part ignores them.
    own = [params["runs"][run] for run in chain]
    own += [overrides.get("runs", {}).get(run, {}) for run in chain]
    for key in overrides.get("common", {}):
        if not any(key in layer for layer in own):
            merged.pop(key)
    if "times" in (schedule := merged.get("schedule") or {}):
        merged["schedule"] = _lengthened(schedule, f"runs.{name}.schedule")
    return merged


def _lengthened(schedule: dict[str, Any], where: str) -> dict[str, Any]:
    """`times: 0.5` makes a schedule half as long at every scale, whatever its steps are there."""
    rest = {key: value for key, value in schedule.items() if key != "times"}
    times = _value(float, schedule["times"], f"{where}.times")
    if not times > 0:
        raise ConfigError(f"{where}.times: must be over 0, found {times}")
    return rest | {"steps": round(_value(int, rest.get("steps"), f"{where}.steps") * times)}


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _one_of(name: Any, known: typing.Iterable[str], what: str) -> None:
    known = list(known)
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{what}: unknown name {name!r}; known: {', '.join(known)}.{hint}")


def _build(kind: type, values: Any, where: str) -> Any:
    """A dataclass from a mapping; every key and type checked."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected a block of keys, found {values!r}")
    hints = typing.get_type_hints(kind)
    for key in values:
        _one_of(key, hints, where)
    arguments = {}
    for part in dataclasses.fields(kind):
        if part.name in values:
            arguments[part.name] = _value(
                hints[part.name], values[part.name], f"{where}.{part.name}"
            )
        elif part.default is dataclasses.MISSING and part.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where}.{part.name}: missing; allowed keys: {', '.join(hints)}")
    return kind(**arguments)


def _value(kind: Any, value: Any, where: str) -> Any:
    """One value against its annotation. Integers never pass for floats, nor bools for integers."""
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in options:
            return None
        return _value(next(o for o in options if o is not type(None)), value, where)
    if origin is Literal:
        _one_of(value, options, where)
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: expected a list, found {value!r}")
        if options[-1] is Ellipsis:
            options = (options[0],) * len(value)
        if len(options) != len(value):
            raise ConfigError(f"{where}: expected {len(options)} values, found {value!r}")
        pairs = enumerate(zip(options, value, strict=True))
        return tuple(_value(o, v, f"{where}[{i}]") for i, (o, v) in pairs)
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, where)
    if type(value) is not kind:
        cure = f" Write {float(value)} with a dot." if kind is float and type(value) is int else ""
        raise ConfigError(f"{where}: expected {kind.__name__}, found {value!r}.{cure}")
    return value
