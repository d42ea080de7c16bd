"""The pinned data set, its tiny twin and KITTI alone: how much of everything, from which seeds."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from kdlib.simulate import kitti
from kdlib.simulate.files import clip_id

DRIVE = 38  # which drive: one by day, with all four lines in sight


@dataclass(frozen=True)
class Recipe:
    """How much of everything a data set has. Sizes are (height, width)."""

    videos: int
    val_videos: int
    frames: int
    rate: Fraction
    video_size: tuple[int, int]
    seg: tuple[int, int]  # stills of images/10k: train, val
    det: tuple[int, int]  # stills of images/100k: train, val
    still_size: tuple[int, int]
    elsewhere: tuple[int, int]
    elsewhere_size: tuple[int, int]
    elsewhere_det: tuple[int, int]  # stills of elsewhere's images/100k, boxes only
    culane: tuple[int, int, int]  # train, val, test
    culane_size: tuple[int, int]
    drive: int  # frames of the drive beside CULane's lists
    drive_rate: Fraction
    kitti: tuple[int, int]  # images of kitti/training: train, val
    kitti_size: tuple[int, int]
    llamas: tuple[int, int]  # train, val
    llamas_size: tuple[int, int]
    apolloscape: tuple[int, int]  # train, val
    apolloscape_size: tuple[int, int]


PINNED = Recipe(
    videos=600,
    val_videos=12,
    frames=20,
    rate=Fraction(2),
    video_size=(144, 256),
    seg=(240, 300),
    det=(400, 80),
    still_size=(288, 512),
    elsewhere=(1500, 100),
    elsewhere_size=(144, 256),
    elsewhere_det=(800, 0),
    culane=(240, 30, 120),
    culane_size=(295, 820),  # half of the official size
    drive=20,
    drive_rate=Fraction(5),
    kitti=(240, 120),
    kitti_size=(188, 622),
    llamas=(100, 40),
    llamas_size=(239, 425),  # a third
    apolloscape=(120, 60),
    apolloscape_size=(339, 423),  # an eighth
)
SMOKE = Recipe(
    videos=8,
    val_videos=2,
    frames=6,
    rate=Fraction(2),
    video_size=(72, 128),
    seg=(12, 8),
    det=(6, 2),
    still_size=(72, 128),
    elsewhere=(8, 4),
    elsewhere_size=(72, 128),
    elsewhere_det=(4, 0),
    culane=(4, 2, 4),
    culane_size=(73, 205),
    drive=3,
    drive_rate=Fraction(5),
    kitti=(4, 2),
    kitti_size=(72, 238),
    llamas=(4, 2),
    llamas_size=(71, 127),
    apolloscape=(4, 2),
    apolloscape_size=(84, 105),
)


def kitti_alone(train: int, val: int) -> Recipe:
    """KITTI's layout and nothing else; the stills of `PINNED` are among as many or more."""
    nothing = {"videos": 0, "val_videos": 0, "drive": 0, "culane": (0, 0, 0)}
    pairs = ("seg", "det", "elsewhere", "elsewhere_det", "llamas", "apolloscape")
    return replace(PINNED, **nothing, **dict.fromkeys(pairs, (0, 0)), kitti=(train, val))


@dataclass(frozen=True)
class Job:
    """One clip to render: what for, from which seed, in which world."""

    kind: str  # video, seg, det, boxes (det without lanes), culane, drive, kitti, llamas, ...
    seed: str
    split: str
    world: str
    root: str  # folder inside the data set
    size: tuple[int, int]
    frames: int = 1
    rate: Fraction = Fraction(2)

    @property
    def id(self) -> str:
        """The id of the clip and of all its files."""
        return clip_id(f"{self.world}/{self.seed}")


def jobs(recipe: Recipe) -> Iterator[Job]:
    """All clips of a data set. Only the videos of `val` share a seed, with stills of 10k/val."""
    root = "bdd100k"
    for split, count in zip(("train", "val"), recipe.seg, strict=True):
        for k in range(count):
            yield Job("seg", f"seg-{split}/{k}", split, "home", root, recipe.still_size)
    for split, count in zip(("train", "val"), recipe.det, strict=True):
        for k in range(count):
            yield Job("det", f"det-{split}/{k}", split, "home", root, recipe.still_size)
    for split, count in zip(("train", "val"), recipe.elsewhere, strict=True):
        for k in range(count):
            yield Job(
                "seg",
                f"seg-{split}/{k}",
                split,
                "elsewhere",
                f"elsewhere/{root}",
                recipe.elsewhere_size,
            )
    for split, count in zip(("train", "val"), recipe.elsewhere_det, strict=True):
        for k in range(count):
            yield Job(
                "boxes",
                f"det-{split}/{k}",
                split,
                "elsewhere",
                f"elsewhere/{root}",
                recipe.elsewhere_size,
            )
    for split, count in zip(("train", "val"), recipe.kitti, strict=True):
        for k in range(count):
            seed = f"kitti/{kitti.number(split, k)}"
            yield Job("kitti", seed, split, "home", "kitti", recipe.kitti_size)
    yield from lane_jobs(recipe)
    for k in range(recipe.val_videos):
        yield Job(
            "video",
            f"seg-val/{k}",
            "val",
            "home",
            root,
            recipe.video_size,
            recipe.frames,
            recipe.rate,
        )
    for k in range(recipe.videos):
        yield Job(
            "video",
            f"pool/{k}",
            "train",
            "home",
            root,
            recipe.video_size,
            recipe.frames,
            recipe.rate,
        )


def lane_jobs(recipe: Recipe) -> Iterator[Job]:
    """The clips of the lane data sets, each set in a world of its own name."""
    counts = {
        "culane": (("train", "val", "test"), recipe.culane, recipe.culane_size),
        "llamas": (("train", "val"), recipe.llamas, recipe.llamas_size),
        "apolloscape": (("train", "val"), recipe.apolloscape, recipe.apolloscape_size),
    }
    for kind, (splits, numbers, size) in counts.items():
        for split, count in zip(splits, numbers, strict=True):
            for k in range(count):
                yield Job(kind, f"{split}/{k}", split, kind, kind, size)
    size = recipe.culane_size
    if recipe.drive:
        seed = f"drive/{DRIVE}"
        yield Job("drive", seed, "drive", "culane", "culane", size, recipe.drive, recipe.drive_rate)
