"""What a run is made of: named blocks of `params.yaml`, read into frozen dataclasses.

A notebook takes the *name* of a run. This module looks the name up, applies the block that it
extends and the overrides of the chosen scale, and checks every key and every type before any work
starts. How a block is put together is told in `kdlib.blocks`.
"""

import dataclasses
import functools
import hashlib
import json
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kdlib import blocks
from kdlib.blocks import ConfigError

# Options that came after the first records: a run that leaves them alone keeps its hash.
LATER = {
    "schedule": ("drops", "clip_each"),
    "model": ("lanes", "context_width"),
    "structured": ("pixelwise_weight",),
    "imitation": ("assign",),
    "subset": ("unlisted",),
}
Scale = Literal["smoke", "sample", "gpu", "paper"]
SCALES: tuple[str, ...] = typing.get_args(Scale)


@dataclass(frozen=True)
class Subset:
    """Which stills of a data set: an official split, narrowed by drive, by range, by drawing."""

    split: str  # official split name: train, val, test
    drives: tuple[str, ...] = ()  # ids that start with one of these; empty = all
    take: tuple[int, int] | None = None  # [from, to) over the sorted ids; None = all
    draw: int = 0  # draw this many, by the run's seed; 0 = all
    # In data.unlabelled, of bdd100k-boxes: the stills that its JSON does not list, and only these.
    unlisted: bool | None = None


@dataclass(frozen=True)
class Data:
    """Where images and labels come from, and which of them play which part."""

    layout: str  # a module of kdlib.data.layouts: bdd100k, camvid, ..., bdd100k-boxes, kitti, ...
    root: str  # folder of the official tree, relative to the repository
    size: tuple[int, int]  # (height, width) to which images are resized when read, pixels
    labelled: Subset  # images whose labels train the teacher and the supervised student
    report: Subset  # the reported split; nothing is chosen on it
    tune: Subset | None = None  # held-out part of the training split, for choosing settings
    unlabelled: tuple[Subset, ...] = ()  # stills that join the pool without their labels
    frames: str | None = None  # run whose shards hold the unlabelled video frames
    pool: int = 0  # how many of those frames to use; 0 = all

    def __post_init__(self):
        for name in ("labelled", "report", "tune"):
            subset = getattr(self, name)
            if subset is not None and subset.unlisted:
                raise ConfigError(
                    f"data.{name}.unlisted: such stills have no labels, only data.unlabelled "
                    "takes them"
                )


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

    zoom: tuple[float, float] = (1.0, 1.25)  # under 1 shows padding, which no loss of pixels counts
    flip: float = 0.5  # probability of a left-right flip
    colour: float = 0.1  # +- share of brightness, contrast, saturation and channel gain
    crop: tuple[int, int] | None = None  # (height, width) of the view; None = data.size


@dataclass(frozen=True)
class Detector:
    """Options of a network that finds boxes; None leaves the network's own default."""

    channels: int | None = None  # of the pyramid and the heads
    head_convs: int | None = None  # convolutions of a head before its last
    levels: tuple[int, ...] | None = None  # of the pyramid; level k has stride 2^k
    box_unit: Literal["pixel", "stride"] | None = None  # of the exponential of the distances
    anchor_scale: float | None = None  # of anchors made for another size of image
    width: float | None = None  # of shuffledet, factor of the channels: 1 teacher, 0.5, 0.25
    # Of fcos and the rcnn networks: layers that are not trained, "released" of rcnn-vgg only.
    frozen: Literal["lower", "released", "none"] | None = None
    frozen_norm: bool | None = None  # batch norms keep their statistics and are not trained
    # Of the rcnn networks, see kdlib.models.rcnn; pairs are (training, evaluation).
    pyramid_channels: int | None = None
    head_channels: int | None = None  # of fc6 and fc7
    rpn_channels: int | None = None
    dropout: float | None = None  # behind fc6 and fc7 of VGG
    scales: tuple[float, ...] | None = None  # of the anchors, multiples of the stride
    inside_only: bool | None = None  # proposals learn on anchors inside the image only
    rpn_batch: int | None = None  # anchors drawn per image
    roi_batch: int | None = None  # regions drawn per image
    proposals: tuple[int, int] | None = None  # regions per image
    proposals_before_nms: tuple[int, int] | None = None  # anchors per level
    score_threshold: float | None = None  # only what scores more is given out
    nms_threshold: float | None = None  # IoU beyond which a box of the same class gives way


@dataclass(frozen=True)
class Model:
    """A network: architecture name and its options; None leaves the network's own default."""

    architecture: str
    depth: int | None = None  # ResNet 18, 34, 50, 101
    blocks: tuple[int, ...] | None = None  # residual blocks per stage, instead of a depth
    width: int | None = None  # channels of the first stage; a ResNet's are 64, an ERFNet's 16
    output_stride: int | None = None
    stem: Literal["imagenet", "small"] | None = None
    norm: Literal["batch", "group"] | None = None
    aux: bool | None = None  # auxiliary head
    shrink: int | None = None  # average this many pixels a side of the input first
    lanes: int | None = None  # lanes whose existence a head of its own tells
    context_width: int | None = None  # channels of context-resnet's context module
    detector: Detector | None = None  # of a network that finds boxes


@dataclass(frozen=True)
class Structured:
    """Structured distillation: which terms join the cross entropy, and under whose weights."""

    terms: tuple[Literal["pixelwise", "pairwise", "holistic"], ...]
    weights: Literal["paper", "journal-default", "journal-script", "conference"]
    window: int | None = None  # pixels a side of a pair-wise node; None = as the weights' source
    critic: Literal["wgan-gp", "hinge"] | None = None  # None = as the weights' source
    critic_blocks: int = 4  # fewer for logits under 64 pixels a side
    unlabelled: bool = False  # unlabelled images join; the terms but the cross entropy count there
    pixelwise_weight: float | None = None  # None = as the weights' source


@dataclass(frozen=True)
class Imitation:
    """Feature imitation: the paper's letters and what is tuned about them."""

    letters: tuple[Literal["I", "F", "G", "D"], ...]  # none: the student alone
    weight: float = 0.01  # of the imitation of features; the released code's for VGG11
    psi: float = 0.5  # share of the best overlap that an anchor of I must exceed
    warmup: int = 0  # steps without imitation; released: 400, at an earlier time 200
    scores_weight: float = 1.0  # of D
    # Of a pyramid, which boxes are whose: None = "area", see kdlib.methods.imitation.
    assign: Literal["area", "anchors", "every"] | None = None

    def __post_init__(self):
        if min(self.weight, self.scores_weight) < 0 or not 0 <= self.psi <= 1:
            raise ConfigError(
                "method.imitation: weights from 0 on and psi from 0 to 1, found weight "
                f"{self.weight}, scores_weight {self.scores_weight}, psi {self.psi}"
            )
        if len({*self.letters} & {*"IFG"}) > 1:
            raise ConfigError(f"method.imitation.letters: one of I, F, G at most: {self.letters}")
        if self.assign == "anchors" and "G" in self.letters:
            raise ConfigError("method.imitation.assign: G takes no anchors: area or every")


@dataclass(frozen=True)
class Affinity:
    """Inter-region affinity distillation and its baselines: what joins the labels' losses."""

    terms: tuple[Literal["affinity", "attention", "soft-targets"], ...]
    levels: tuple[Literal["middle", "high"], ...] = ("middle", "high")  # of affinity, attention
    affinity_weight: float = 0.1
    attention_weight: float = 0.1
    soft_weight: float = 0.1  # not published; as the other two
    temperature: float = 4.0  # of the soft targets; not published
    kernel: int = 5  # pixels a side of the square that dilates a class's mask; odd
    skewness: Literal["variance", "std"] = "variance"  # its divisor: as printed, or the textbook's
    nodes: Literal["all", "present", "foreground"] = "all"

    def __post_init__(self):
        where = "method.affinity"
        if not self.levels:
            raise ConfigError(f"{where}.levels: name one at least, middle or high")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ConfigError(f"{where}.kernel: an odd number of pixels, found {self.kernel}")
        if not self.temperature > 0:
            raise ConfigError(f"{where}.temperature: over 0, found {self.temperature}")
        for name in ("affinity_weight", "attention_weight", "soft_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{where}.{name}: from 0 on, found {getattr(self, name)}")


@dataclass(frozen=True)
class Method:
    """What the student learns from."""

    name: Literal["supervised", "distil", "matching", "structured", "imitation", "affinity"]
    temperature: float = 1.0
    mixup: bool = False  # matching: blend each image with its neighbour in the batch
    label_weight: float = 0.0  # distil: weight of the cross entropy with the labels
    # distil and matching, boxes: which cells count how much, see losses.matching; None = foreground
    weighting: Literal["foreground", "top", "difference"] | None = None
    # Of the cross entropy: by the labelled images' frequencies, or as published for the data set.
    class_weights: Literal["none", "inverse-sqrt", "published"] = "none"
    structured: Structured | None = None
    imitation: Imitation | None = None
    affinity: Affinity | None = None

    def __post_init__(self):
        for name in ("structured", "imitation", "affinity"):
            block = getattr(self, name)
            if (self.name == name) != (block is not None):
                raise ConfigError(
                    f"method.{name}: {self.name} "
                    + ("needs this block" if block is None else f"has none, only {name}")
                )
        if not self.temperature > 0:
            raise ConfigError(f"method.temperature: over 0, found {self.temperature}")
        if self.label_weight < 0:
            raise ConfigError(f"method.label_weight: from 0 on, found {self.label_weight}")
        for key, *ways in (
            ("mixup", "matching"),
            ("label_weight", "distil"),
            ("weighting", "distil", "matching"),
        ):
            if getattr(self, key) and self.name not in ways:
                only = " and ".join(ways)
                raise ConfigError(f"method.{key}: {self.name} has none, only {only}")


@dataclass(frozen=True)
class Schedule:
    """How long and how fast."""

    steps: int
    batch: int
    lr: float
    optimiser: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = 0.01  # on matrices only for adamw, on everything for sgd
    decay: Literal["cosine", "poly", "step"] = "cosine"
    drops: tuple[float, ...] | None = None  # of step: shares of the run, each a tenth
    warmup: int = 0  # steps of linear warm-up
    clip_norm: float = 0.0  # 0 = no gradient clipping
    clip_each: bool | None = None  # clip_norm holds for each parameter by itself, not for all
    ema: float = 0.0  # decay of averaged weights, which are then the result; 0 = off
    workers: int = 1  # loader processes
    save_every_s: float = 60.0  # seconds between two resume points
    precision: Literal["auto", "float32", "bf16"] = "auto"
    compile: bool = False

    def __post_init__(self):
        if self.steps < 0 or self.batch < 1 or not self.lr > 0:
            raise ConfigError(
                "schedule: steps from 0 on, batch from 1 on and lr over 0, found "
                f"steps {self.steps}, batch {self.batch}, lr {self.lr}"
            )
        drops = self.drops or ()
        if (self.decay == "step") != bool(drops):
            raise ConfigError("schedule.drops: needed by decay: step, and by no other decay")
        if any(not 0 < share < 1 for share in drops):
            raise ConfigError(f"schedule.drops: shares between 0 and 1, found {drops}")
        if self.clip_each and not self.clip_norm:
            raise ConfigError("schedule.clip_each: needs the norm, schedule.clip_norm")


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
        method, model = settings["method"] or {}, settings["model"] or {}
        schedule = settings["schedule"] or {}
        for key in ("workers", "save_every_s"):
            schedule.pop(key, None)
        # The block of another method or of another kind of network changes nothing here, and so
        # does an option that came later and that this run leaves alone.
        settings["method"] = {k: v for k, v in method.items() if v is not None} or None
        data = settings["data"]
        subsets = (data["labelled"], data["report"], data["tune"], *data["unlabelled"])
        parts = [*method.items(), ("model", model), ("schedule", schedule)]
        for name, part in [*parts, *(("subset", subset) for subset in subsets)]:
            for key in LATER.get(name, ()):
                if part and part.get(key) is None:
                    part.pop(key, None)
        if detector := model.pop("detector", None):
            model["detector"] = {k: v for k, v in detector.items() if v is not None}
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
    path = repository() / "params.yaml"
    state = path.stat()
    return build_run(_params(path, state.st_mtime_ns, state.st_size), name, scale=scale, seed=seed)


@functools.lru_cache(maxsize=2)
def _params(path: Path, changed: int, size: int) -> dict[str, Any]:
    """The file in that state, read once: a page of results looks up some thirty runs."""
    return read_params(path)


def build_run(params: dict[str, Any], name: str, *, scale: str | None = None, seed: int = 0) -> Run:
    """As `load_run`, from a parameter file that was read before."""
    scale = params["scale"] if scale is None else scale
    blocks.one_of(scale, SCALES, "scale")
    block = blocks.resolve(params, name, scale)
    seed = 0 if block.get("shared", False) else seed
    return blocks.build(Run, {"name": name, "scale": scale, "seed": seed, **block}, f"runs.{name}")


def read_params(path: Path) -> dict[str, Any]:
    """The parameter file, with everything checked that is not a value. See kdlib.blocks."""
    keys = {part.name for part in dataclasses.fields(Run)} - {"name", "scale", "seed"}
    return blocks.read(path, keys, SCALES)
