"""Pictures of detection: labelled and found boxes, and where two networks' boxes differ.

Shape suffixes: H height, W width, C the three colour channels (RGB).
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from kdlib.detection import Boxes, Detections
from kdlib.metrics.box_ap import overlaps
from kdlib.report import pictures
from kdlib.report.look import Picture, no_break, style

PALETTE = (  # of layouts that bring no colours: bright enough for dark streets
    (255, 214, 0),
    (255, 105, 97),
    (64, 196, 255),
    (124, 255, 108),
    (255, 145, 255),
    (255, 160, 40),
    (0, 240, 200),
    (178, 120, 255),
    (90, 128, 255),
    (222, 184, 135),
    (235, 235, 235),
)
MISSED, EXTRA = "#FFD600", "#FF006E"  # marks of the lower line, over grey pictures
IGNORED = "#9A9A9A"
LUMINANCE = 0.5  # least brightness of a box
SCORE = 0.3  # found boxes of lower scores are not shown
TEXT = 6.5  # points, of the scores
IOU = 0.5  # of two boxes of a class that stand for the same object


class Found(NamedTuple):
    """Boxes to be drawn, as arrays: scores None for labels."""

    xyxy: np.ndarray  # (D, 4)
    classes: np.ndarray  # (D,)
    scores: np.ndarray | None


class Difference(NamedTuple):
    """Which boxes have no partner: masks over the reference's and over the own boxes."""

    missed: np.ndarray  # (R,) bool
    extra: np.ndarray  # (D,) bool


def shown(found: Detections, score: float = SCORE) -> Found:
    """The detections that a picture shows: those of the score and up."""
    scores = np.asarray(found.scores.detach().cpu(), np.float32)
    keep = scores >= score
    xyxy = np.asarray(found.xyxy.detach().cpu(), np.float32)
    return Found(xyxy[keep], np.asarray(found.classes.cpu())[keep], scores[keep])


def labelled(boxes: Boxes) -> Found:
    """The objects of an image, without its ignored regions."""
    keep = ~np.asarray(boxes.ignored)
    return Found(np.asarray(boxes.xyxy)[keep], np.asarray(boxes.classes)[keep], None)


def difference(
    own: Found, reference: Found, *, ignored: np.ndarray | None = None, iou: float = IOU
) -> Difference:
    """Pair boxes of one class, each with the free one that it overlaps most, by `iou` at least.

    Own boxes choose in their order, which for detections is that of the scores. What stays without
    a partner was missed, or is extra; unless it lies in one of the regions `ignored` (G, 4) with
    half of its area or more, where the labels don't say what there is.
    """
    free = np.ones(len(reference.xyxy), bool)
    extra = np.ones(len(own.xyxy), bool)
    overlap = overlaps(own.xyxy, reference.xyxy)
    for i in range(len(own.xyxy)):
        fits = np.where(free & (reference.classes == own.classes[i]), overlap[i], -1.0)
        best = int(fits.argmax()) if len(fits) else -1
        if best >= 0 and fits[best] >= iou:
            free[best], extra[i] = False, False
    if ignored is not None and len(ignored):
        extra &= overlaps(own.xyxy, ignored, of_first=True).max(1) < 0.5
    return Difference(free, extra)


def draw(
    axis: Axes,
    boxes: Found,
    palette: Sequence[Sequence[int]] = PALETTE,
    *,
    labels: bool = True,
    **line: object,
) -> None:
    """Boxes in the colours of their classes, each with its score where there is one.

    Scores evade each other, the highest first; one that finds no room is left out. line: further
    settings of the rectangles; a colour there holds for all of them.
    """
    colours = [_bright(palette[int(c) % len(palette)]) for c in boxes.classes]
    for colour, (x1, y1, x2, y2) in zip(colours, boxes.xyxy, strict=True):
        look = dict(fill=False, edgecolor=colour, linewidth=1.0) | line
        axis.add_patch(Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, **look))
    if labels and boxes.scores is not None:
        words = [f"{score:.2f}".lstrip("0") for score in boxes.scores]
        for i, place in _places(axis, boxes, words).items():
            box = dict(facecolor=colours[i], lw=0, pad=0.4, alpha=0.85)
            how = dict(fontsize=TEXT, color="black", ha="left", va="bottom", clip_on=True)
            axis.text(*place, words[i], bbox=box, **how)


def _places(axis: Axes, boxes: Found, words: Sequence[str]) -> dict[int, tuple[float, float]]:
    """By box the lower left corner of its score, in pixels of the picture, where there is room."""
    inches = axis.get_position().width * axis.get_figure().get_figwidth()
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    point = (right - left) / (72 * inches)  # pixels
    tall, taken, found = 1.1 * TEXT * point, [], {}
    for i in np.argsort(-boxes.scores, kind="stable"):
        x1, y1, x2, y2 = boxes.xyxy[i]
        wide = 0.62 * TEXT * len(words[i]) * point
        above, inside, below = y1 - 1, y1 + tall, y2 + tall
        asked = [(x1, above), (x2 - wide, above), (x1, below), (x2 - wide, below), (x2, inside)]
        for x, y in [*asked, (x1 - wide, inside), (x1, inside)]:
            here = np.array([[x, y - tall, x + wide, y]])
            within = x >= left and x + wide <= right and y - tall >= top and y <= bottom
            if within and not (taken and overlaps(here, np.array(taken)).any()):
                taken.append(here[0])
                found[int(i)] = (x, y)
                break
    return found


def comparison_grid(
    images: Sequence[np.ndarray],
    truth: Sequence[Boxes],
    teacher: Sequence[Detections],
    students: Mapping[str, Sequence[Detections]],
    palette: Sequence[Sequence[int]] = PALETTE,
    *,
    classes: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    title: str | None = None,
    score: float = SCORE,
    iou: float = IOU,
) -> Picture:
    """Truth, teacher and students, and below each network what it misses and what it adds.

    Every image takes two lines. Upper: the labelled boxes, then what teacher and students find.
    Lower: the picture, then what the teacher misses (dashed) of the truth and adds to it, then what
    each student misses of the *teacher's* boxes and adds to them.

    images: uint8 HWC; truth, teacher and each student: one for each image, pixels of that image.
    classes: names for the legend of the classes that occur. names: a label for each image. title:
    None = a sentence on who differs least, from these images. score: found boxes from here on. iou:
    of two boxes of a class that stand for the same object.
    """
    images = [pictures.checked_image(image) for image in images]
    pictures.check_counts(images, truth, teacher, students, names)
    labels = [labelled(one) for one in truth]
    taught = [shown(one, score) for one in teacher]
    seen = {name: [shown(one, score) for one in own] for name, own in students.items()}
    groups = (labels, taught, *seen.values())
    used = sorted({int(c) for group in groups for one in group for c in one.classes})
    columns, (height, width) = 2 + len(students), images[0].shape[:2]
    plan = pictures.Plan(len(images), columns, height / width, len(used) + 3 if classes else 0)
    with style():
        figure = Picture(figsize=plan.size)
        for i, image in enumerate(images):
            upper, lower = ([plan.axes(figure, i, r, c) for c in range(columns)] for r in (0, 1))
            found = [labels[i], taught[i], *(own[i] for own in seen.values())]
            _upper(upper, image, truth[i], found, palette)
            _lower(lower, image, found, _ignored(truth[i]), iou)
            if i == 0:
                for axis, text in zip(upper, ("truth", "teacher", *students), strict=True):
                    axis.set_title(text, fontsize=10, loc="center", pad=4, weight="bold")
            if names:
                pictures.caption(upper[0], str(names[i]))
        if classes:
            _legend(figure, used, classes, palette, plan)
        text = grid_finding(taught, seen, iou=iou) if title is None else title
        lines = textwrap.fill(no_break(text), int(plan.size[0] * 8.6))
        top = 1 - 0.1 / plan.size[1]
        figure.suptitle(lines, x=plan.LEFT / plan.size[0], y=top, ha="left", weight="bold", size=12)
    return figure


def grid_finding(
    taught: Sequence[Found], students: Mapping[str, Sequence[Found]], *, iou: float = IOU
) -> str:
    """How many of the teacher's boxes each student misses, and how many it adds, in all images."""
    total = sum(len(one.xyxy) for one in taught)
    if not students:
        return f"Boxes that the teacher finds: {total}"
    listed = []
    for name, own in students.items():
        pairs = [difference(a, b, iou=iou) for a, b in zip(own, taught, strict=True)]
        missed, extra = (sum(int(getattr(p, k).sum()) for p in pairs) for k in ("missed", "extra"))
        listed.append(f"{name} misses {missed}, adds {extra}")
    return f"Of the teacher's {total} boxes: {'; '.join(listed)}"


def _upper(
    axes: Sequence[Axes], image: np.ndarray, truth: Boxes, found: Sequence[Found], palette
) -> None:
    for axis, own in zip(axes, found, strict=True):
        pictures.show(axis, image)
        draw(axis, own, palette)
    aside = _ignored(truth)
    regions = Found(aside, np.zeros(len(aside), int), None)
    draw(axes[0], regions, edgecolor=IGNORED, linestyle=":", linewidth=0.8)


def _ignored(truth: Boxes) -> np.ndarray:
    return np.asarray(truth.xyxy)[np.asarray(truth.ignored)]


def _lower(
    axes: Sequence[Axes], image: np.ndarray, found: Sequence[Found], ignored: np.ndarray, iou: float
) -> None:
    """The plain picture, then each network against the one that it is judged by."""
    pictures.show(axes[0], image)
    labels, taught, *_ = found
    grey = pale(image)
    for place, (axis, own) in enumerate(zip(axes[1:], found[1:], strict=True)):
        reference = labels if place == 0 else taught
        aside = ignored if place == 0 else None
        apart = difference(own, reference, ignored=aside, iou=iou)
        words = "truth" if place == 0 else "teacher"
        counts = f"misses {apart.missed.sum()}, adds {apart.extra.sum()}"
        pictures.show(axis, grey, f"against {words}: {counts}")
        missed = Found(reference.xyxy[apart.missed], reference.classes[apart.missed], None)
        extra = Found(own.xyxy[apart.extra], own.classes[apart.extra], None)
        draw(axis, missed, edgecolor=MISSED, linestyle=(0, (3, 1.5)), linewidth=1.3)
        draw(axis, extra, edgecolor=EXTRA, linewidth=1.3)


def pale(image_HWC: np.ndarray) -> np.ndarray:
    """The image in dark grey, so that marks stand out. uint8 HWC."""
    grey_HW = image_HWC @ np.array([0.299, 0.587, 0.114])
    return np.repeat(np.rint(20 + 0.6 * grey_HW).astype(np.uint8)[..., None], 3, axis=2)


def _legend(figure: Figure, used, classes, palette, plan: pictures.Plan) -> None:
    handles = [
        mpl.patches.Patch(color=_bright(palette[c % len(palette)]), label=classes[c]) for c in used
    ]
    for label, colour, dash in (("misses", MISSED, "--"), ("adds", EXTRA, "-")):
        handles.append(mpl.lines.Line2D([], [], color=colour, ls=dash, lw=2, label=label))
    handles.append(mpl.lines.Line2D([], [], color=IGNORED, ls=":", lw=2, label="ignored"))
    place = dict(loc="lower left", bbox_to_anchor=(0, 0), handlelength=1.4, columnspacing=1.1)
    figure.legend(handles=handles, ncols=plan.ncols, fontsize=8, **place)


def _bright(colour: Sequence[int]) -> tuple[float, ...]:
    """The colour, 0..1, with as much white as it takes to stand out on a dark street."""
    rgb = np.asarray(colour) / 255
    luminance = float(rgb @ np.array([0.299, 0.587, 0.114]))
    white = max(0.0, (LUMINANCE - luminance) / (1 - luminance)) if luminance < 1 else 0.0
    return tuple((1 - white) * rgb + white)
