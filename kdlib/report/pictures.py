"""Pictures of segmentation: labels in colour, labels over images, and where students disagree.

Shape suffixes: H height, W width, C the three colour channels (RGB).
"""

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdlib.report.look import INK, Picture, no_break, style

DISAGREE = (255, 0, 110)  # no class of the driving palettes has this colour
IGNORED = (0, 0, 0)


def colourise(
    labels_HW: np.ndarray, palette: Sequence[Sequence[int]], ignore: int = 255
) -> np.ndarray:
    """Labels as RGB, uint8 HWC: each class in its palette colour, ignored pixels black.

    Raises ValueError where a label is neither in the palette nor the ignore value.
    """
    labels_HW = np.asarray(labels_HW)
    if labels_HW.ndim != 2:
        raise ValueError(f"labels must be HW, found shape {labels_HW.shape}")
    ignored_HW = labels_HW == ignore
    unknown = np.unique(labels_HW[~ignored_HW & ((labels_HW < 0) | (labels_HW >= len(palette)))])
    if len(unknown):
        raise ValueError(
            f"labels {unknown.tolist()} are not in the palette of {len(palette)} classes"
        )
    colours = np.asarray([*palette, IGNORED], dtype=np.uint8)
    return colours[np.where(ignored_HW, len(palette), labels_HW)]


def overlay(
    image_HWC: np.ndarray,
    labels_HW: np.ndarray,
    palette: Sequence[Sequence[int]],
    ignore: int = 255,
    *,
    strength: float = 0.5,
) -> np.ndarray:
    """The image with the labels' colours over it; ignored pixels stay as they are. uint8 HWC."""
    image_HWC = checked_image(image_HWC)
    colours_HWC = colourise(labels_HW, palette, ignore)
    _same_size(image_HWC, labels_HW, "labels")
    mixed = (1 - strength) * image_HWC + strength * colours_HWC
    keep = (np.asarray(labels_HW) == ignore)[..., None]
    return np.where(keep, image_HWC, np.rint(mixed)).astype(np.uint8)


def disagreement(
    image_HWC: np.ndarray,
    labels_HW: np.ndarray,
    reference_HW: np.ndarray,
    ignore: int | None = None,
) -> np.ndarray:
    """The image in pale grey, pixels where the two labels differ in a strong colour. uint8 HWC.

    ignore: reference value of pixels that are not judged; they are drawn black. None = all are.
    """
    image_HWC = checked_image(image_HWC)
    _same_size(image_HWC, labels_HW, "labels")
    _same_size(image_HWC, reference_HW, "reference labels")
    grey_HW = image_HWC @ np.array([0.299, 0.587, 0.114])
    pale_HW = np.rint(105 + 0.55 * grey_HW).astype(np.uint8)  # never as dark as what is marked
    picture_HWC = np.repeat(pale_HW[..., None], 3, axis=2)
    picture_HWC[np.asarray(labels_HW) != np.asarray(reference_HW)] = DISAGREE
    if ignore is not None:
        picture_HWC[np.asarray(reference_HW) == ignore] = IGNORED
    return picture_HWC


def difference_share(
    labels_HW: np.ndarray, reference_HW: np.ndarray, ignore: int | None = None
) -> float:
    """Share of judged pixels where two labels differ, 0..1; NaN where none is judged."""
    reference_HW = np.asarray(reference_HW)
    judged_HW = reference_HW != ignore if ignore is not None else np.ones_like(reference_HW, bool)
    if not judged_HW.any():
        return float("nan")
    return float((np.asarray(labels_HW) != reference_HW)[judged_HW].mean())


def comparison_grid(
    images: Sequence[np.ndarray],
    truth: Sequence[np.ndarray],
    teacher: Sequence[np.ndarray],
    students: Mapping[str, Sequence[np.ndarray]],
    palette: Sequence[Sequence[int]],
    ignore: int = 255,
    *,
    classes: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    title: str | None = None,
) -> Picture:
    """Image, truth, teacher and students, and below each network where it is wrong or disagrees.

    Every image takes two lines. Upper: image, teacher, students. Lower: truth, pixels where the
    teacher differs from the truth, pixels where each student differs from the teacher, with their
    share. images: uint8 HWC; truth, teacher and each student: HW labels, one for each image.
    classes: names for the legend of the classes that occur. names: a label for each image.
    title: None = a sentence on who disagrees least, from these images.
    """
    images = [checked_image(image) for image in images]
    check_counts(images, truth, teacher, students, names)
    used = sorted(_used(truth, teacher, students, len(palette))) if classes else []
    columns = 2 + len(students)
    height, width = images[0].shape[:2]
    plan = Plan(len(images), columns, height / width, len(used) + 2 if classes else 0)
    with style():
        figure = Picture(figsize=plan.size)
        for i, image in enumerate(images):
            axes = np.array([[plan.axes(figure, i, r, c) for c in range(columns)] for r in (0, 1)])
            _upper(axes[0], image, teacher[i], {k: v[i] for k, v in students.items()}, palette)
            _lower(axes[1], image, truth[i], teacher[i], students, i, palette, ignore)
            if i == 0:
                for axis, text in zip(axes[0], ("image", "teacher", *students), strict=True):
                    axis.set_title(text, fontsize=10, loc="center", pad=4, weight="bold")
            if names:
                caption(axes[0, 0], str(names[i]))
        if classes:
            _legend(figure, used, classes, palette, plan)
        text = grid_finding(truth, teacher, students) if title is None else title
        lines = textwrap.fill(no_break(text), int(plan.size[0] * 8.6))
        top = 1 - 0.1 / plan.size[1]
        figure.suptitle(lines, x=plan.LEFT / plan.size[0], y=top, ha="left", weight="bold", size=12)
    return figure


def grid_finding(
    truth: Sequence[np.ndarray],
    teacher: Sequence[np.ndarray],
    students: Mapping[str, Sequence[np.ndarray]],
) -> str:
    """Share of pixels where each student differs from the teacher, over the images shown."""
    if not students:
        return "The teacher's predictions"
    shares = {}
    for name, own in students.items():
        pairs = zip(own, teacher, strict=True)
        differ = sum(int((np.asarray(a) != np.asarray(b)).sum()) for a, b in pairs)
        shares[name] = 100 * differ / sum(np.size(labels) for labels in teacher)
    listed = ", ".join(f"{name} {share:.1f} %" for name, share in shares.items())
    return f"Pixels where the student differs from the teacher: {listed}"


class Plan:
    """Where the cells of a grid lie; all lengths in inches."""

    LEFT, GAP, BETWEEN, TOP, LINE = 0.08, 0.05, 0.16, 0.8, 0.22
    PER_LINE = 1.15  # width of a legend entry

    def __init__(self, images: int, columns: int, aspect: float, entries: int) -> None:
        self.cell = (max(2.35, 7.2 / columns), max(2.35, 7.2 / columns) * aspect)
        width = 2 * self.LEFT + columns * self.cell[0] + (columns - 1) * self.GAP
        self.block = 2 * self.cell[1] + self.GAP + self.BETWEEN
        self.ncols = max(1, int(width / self.PER_LINE))
        legend = -(-entries // self.ncols) * self.LINE + 0.12 if entries else 0
        self.size = (width, self.TOP + images * self.block + legend)

    def axes(self, figure: Figure, image: int, row: int, column: int) -> Axes:
        """Axes of one cell: row 0 or 1 of the image's two lines."""
        (width, height), (cell_w, cell_h) = self.size, self.cell
        x = self.LEFT + column * (cell_w + self.GAP)
        y = height - self.TOP - image * self.block - row * (cell_h + self.GAP) - cell_h
        return figure.add_axes((x / width, y / height, cell_w / width, cell_h / height))


def _upper(axes: np.ndarray, image, teacher_HW, students: Mapping, palette) -> None:
    pictures = [image, colourise(teacher_HW, palette)]
    pictures += [colourise(labels_HW, palette) for labels_HW in students.values()]
    for axis, picture in zip(axes, pictures, strict=True):
        show(axis, picture)


def _lower(axes, image, truth_HW, teacher_HW, students, i, palette, ignore) -> None:
    show(axes[0], colourise(truth_HW, palette, ignore), "truth")
    share = difference_share(teacher_HW, truth_HW, ignore)
    wrong_HWC = disagreement(image, teacher_HW, truth_HW, ignore)
    show(axes[1], wrong_HWC, f"≠ truth: {100 * share:.1f} %")
    for axis, labels in zip(axes[2:], students.values(), strict=True):
        share = difference_share(labels[i], teacher_HW)
        show(axis, disagreement(image, labels[i], teacher_HW), f"≠ teacher: {100 * share:.1f} %")


def show(axis: Axes, picture: np.ndarray, words: str = "") -> None:
    """A picture without ticks and frame, a caption over its corner."""
    axis.imshow(picture, interpolation="nearest", aspect="auto")
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(False)
    if words:
        caption(axis, words)


def caption(axis: Axes, text: str) -> None:
    """Small words on white in the lower left corner."""
    box = dict(facecolor="white", alpha=0.85, lw=0, boxstyle="round,pad=0.25")
    where = dict(transform=axis.transAxes, ha="left", va="bottom")
    axis.text(0.02, 0.04, text, color=INK, fontsize=7.5, bbox=box, **where)


def _legend(figure: Figure, used, classes, palette, plan: Plan) -> None:
    handles = [
        mpl.patches.Patch(color=np.asarray(palette[c]) / 255, label=classes[c]) for c in used
    ]
    handles.append(mpl.patches.Patch(color=np.asarray(IGNORED) / 255, label="ignored"))
    handles.append(mpl.patches.Patch(color=np.asarray(DISAGREE) / 255, label="differs"))
    figure.legend(
        handles=handles,
        ncols=plan.ncols,
        loc="lower left",
        bbox_to_anchor=(0, 0),
        fontsize=8,
        handlelength=1.1,
        columnspacing=1.1,
    )


def _used(truth, teacher, students: Mapping, num_classes: int) -> set[int]:
    found: set[int] = set()
    for labels in (*truth, *teacher, *(own for group in students.values() for own in group)):
        found |= {int(value) for value in np.unique(labels) if value < num_classes}
    return found


def check_counts(images, truth, teacher, students: Mapping, names) -> None:
    """Raise ValueError where a group has not one entry for each image."""
    groups = {"truth": truth, "teacher": teacher, **students}
    if names is not None:
        groups["names"] = names
    if not images:
        raise ValueError("no images: a grid needs at least one")
    for name, group in groups.items():
        if len(group) != len(images):
            raise ValueError(f"{len(images)} images but {len(group)} of {name!r}")


def checked_image(image_HWC: np.ndarray) -> np.ndarray:
    """The image as an array. Raises ValueError where it is not uint8 HWC with three channels."""
    image_HWC = np.asarray(image_HWC)
    if image_HWC.ndim != 3 or image_HWC.shape[2] != 3 or image_HWC.dtype != np.uint8:
        found = f"{image_HWC.dtype} of shape {image_HWC.shape}"
        raise ValueError(f"an image must be uint8 HWC with three channels, found {found}")
    return image_HWC


def _same_size(image_HWC: np.ndarray, labels_HW: np.ndarray, what: str) -> None:
    if image_HWC.shape[:2] != np.shape(labels_HW):
        raise ValueError(
            f"{what} of shape {np.shape(labels_HW)} do not fit the image of "
            f"{image_HWC.shape[:2]}; resize the labels to the image by nearest neighbour"
        )
