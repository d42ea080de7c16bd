"""Pictures of the region that imitates: which cells of the feature map, over the image.

Shape suffixes: H height, W width in pixels, C the three colour channels (RGB); h x w cells.
"""

import textwrap
from collections.abc import Mapping

import numpy as np
from matplotlib.patches import Rectangle

from kdlib.report import look, pictures
from kdlib.report.look import Picture, style

COLOUR = (0, 200, 255)
STRENGTH = 0.5  # of the colour over a cell that imitates
DIM = 0.55  # brightness of the others
EDGE, TOP, CAPTION = 0.1, 0.5, 0.26  # inches


def overlay(image_HWC: np.ndarray, mask_hw: np.ndarray, stride: float) -> np.ndarray:
    """The image, cells of the mask in colour, the rest darker. uint8 HWC.

    stride: pixels a cell spans; cell (i, j) covers the rows from i * stride up to (i + 1) * stride.
    Pixels beyond the map are dark, cells beyond the image are not seen.
    """
    image_HWC = pictures.checked_image(image_HWC)
    mask_hw = np.asarray(mask_hw)
    if mask_hw.ndim != 2:
        raise ValueError(f"a mask must be (h, w) cells of one image, found shape {mask_hw.shape}")
    if not stride > 0:
        raise ValueError(f"stride must be positive, not {stride}")
    inside = []
    for pixels, cells in zip(image_HWC.shape[:2], mask_hw.shape, strict=True):
        index = ((np.arange(pixels) + 0.5) / stride).astype(int)
        inside.append((index.clip(max=cells - 1), index < cells))
    (rows, row_in), (columns, column_in) = inside
    lit_HW = mask_hw[np.ix_(rows, columns)].astype(bool) & row_in[:, None] & column_in
    lit_HWC = (1 - STRENGTH) * image_HWC + STRENGTH * np.array(COLOUR)
    return np.rint(np.where(lit_HW[..., None], lit_HWC, DIM * image_HWC)).astype(np.uint8)


def region_figure(
    image_HWC: np.ndarray,
    boxes: np.ndarray,
    masks: np.ndarray | Mapping[str, np.ndarray],
    stride: float,
    *,
    title: str | None = None,
    note: str = "",
    columns: int = 2,
    width: float = 10.0,
) -> Picture:
    """Regions of one image, side by side; the labelled boxes in white.

    boxes: (G, 4) x1, y1, x2, y2 in pixels of the image, ends outside. masks: (h, w) bool, or
    several by the name that stands over them: by anchors, by box, the whole map, several psi.
    title: None = `region_finding`; at most two lines fit.
    """
    image_HWC, named = pictures.checked_image(image_HWC), _named(masks)
    columns = min(columns, len(named))
    lines = -(-len(named) // columns)
    cell = (width - EDGE * (columns + 1)) / columns
    tall = cell * image_HWC.shape[0] / image_HWC.shape[1]
    height = TOP + lines * (tall + CAPTION) + (EDGE if not note else 3 * EDGE)
    with style():
        figure = Picture(figsize=(width, height))
        for i, (name, mask_hw) in enumerate(named.items()):
            left = EDGE + (i % columns) * (cell + EDGE)
            low = height - TOP - (i // columns + 1) * (tall + CAPTION)
            place = (left / width, low / height, cell / width, tall / height)
            axis = figure.add_axes(place)
            pictures.show(axis, overlay(image_HWC, mask_hw, stride))
            words = f"{name}{': ' if name else ''}{cells_text(mask_hw)}"
            axis.set_title(words, loc="left", fontsize=9.5, pad=4)
            for x1, y1, x2, y2 in np.asarray(boxes, float).reshape(-1, 4):
                place = dict(xy=(x1 - 0.5, y1 - 0.5), width=x2 - x1, height=y2 - y1)
                axis.add_patch(Rectangle(**place, fill=False, edgecolor="white", lw=1.0))
        if note:
            figure.text(EDGE / width, 0.06 / height, note, fontsize=8, color=look.QUIET)
        text = look.no_break(region_finding(named) if title is None else title)
        place = dict(x=EDGE / width, y=1 - 0.08 / height, ha="left", va="top")
        figure.suptitle(textwrap.fill(text, int(width * 9)), **place, weight="bold", fontsize=12)
    return figure


def region_finding(masks: Mapping[str, np.ndarray]) -> str:
    """How many cells each region has, the smallest first."""
    counts = {name: int(np.asarray(mask).sum()) for name, mask in masks.items()}
    if list(counts) == [""]:
        return f"Cells that imitate: {counts['']:,}"
    listed = [f"{name} ({count:,})" for name, count in sorted(counts.items(), key=lambda kv: kv[1])]
    return f"Cells that imitate: {'; '.join(listed)}"


def cells_text(mask_hw: np.ndarray) -> str:
    """`52 of 1,872 cells, 2.8 %`."""
    mask_hw = np.asarray(mask_hw)
    lit = int(mask_hw.sum())
    return f"{lit:,} of {mask_hw.size:,} cells, {100 * lit / max(mask_hw.size, 1):.1f} %"


def _named(masks: np.ndarray | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    named = dict(masks) if isinstance(masks, Mapping) else {"": np.asarray(masks)}
    if not named:
        raise ValueError("no masks: a figure of regions needs at least one")
    return named
