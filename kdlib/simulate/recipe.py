"""The pinned data set and its tiny twin: how much of everything, and from which seeds."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from kdlib.simulate import kitti
from kdlib.simulate.files import clip_id


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
    culane: int
    culane_size: tuple[int, int]
    kitti: tuple[int, int]  # images of kitti/training: train, val
    kitti_size: tuple[int, int]


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
    culane=24,
    culane_size=(288, 800),
    kitti=(240, 120),
    kitti_size=(188, 622),
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
    culane=2,
    culane_size=(72, 200),
    kitti=(4, 2),
    kitti_size=(72, 238),
)


@dataclass(frozen=True)
class Job:
    """One clip to render: what for, from which seed, in which world."""

    kind: str  # video, seg, det, boxes (det without lanes), culane, kitti
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
    for k in range(recipe.culane):
        split = ("train", "train", "train", "val", "test")[k % 5]
        yield Job("culane", f"culane/{k}", split, "home", "culane", recipe.culane_size)
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
