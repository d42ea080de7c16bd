"""Things made of flat coloured faces, and the canvas they are drawn on.

A canvas has four channels: blue, green, red and the class. One call to OpenCV so colours a face
and labels it. A second canvas, used only for boxes, holds the number of the object.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from kdlib.simulate.camera import NEAR, SHIFT, UNIT, View
from kdlib.simulate.light import Color, Light

DISC = ((0.0, 1.0), (0.5, 0.866), (0.866, 0.5), (1.0, 0.0), (0.866, -0.5), (0.5, -0.866),
        (0.0, -1.0), (-0.5, -0.866), (-0.866, -0.5), (-1.0, 0.0), (-0.866, 0.5),
        (-0.5, 0.866))  # fmt: skip


def limb(x0: float, y0: float, x1: float, y1: float, w0: float, w1: float) -> list:
    """A tapering upright-ish bar from (x0, y0) to (x1, y1)."""
    return [(x0 - w0, y0), (x0 + w0, y0), (x1 + w1, y1), (x1 - w1, y1)]


@dataclass(frozen=True)
class Shape:
    """Faces in the thing's own metres: x right, y up, z along its way.

    verts: (N, 3). Per face f: `count[f]` polygons of `corners[f]` points from `start[f]`,
    `bgr[f]`, `label[f]`, `size[f]` (metres; a face smaller than a pixel is left out),
    `culled[f]` (drawn only when seen from outside), `shines[f]` (not darkened at night),
    `part[f]` (0 or 1: which of two objects, as rider and bicycle).
    """

    verts: np.ndarray
    start: list[int]
    count: list[int]
    corners: list[int]
    bgr: np.ndarray
    label: list[int]
    size: np.ndarray
    culled: np.ndarray
    shines: np.ndarray
    part: list[int]
    parts: tuple[int, ...]  # classes of the parts
    lamps: tuple[tuple[float, float, float, float, Color], ...]  # x, y, z, radius (m), colour

    @cached_property
    def radius(self) -> float:
        """How far the shape reaches from its foot, in plan (metres)."""
        return float(np.abs(self.verts[:, (0, 2)]).max() * 1.42)

    @cached_property
    def top(self) -> float:
        """Its height, metres."""
        return float(self.verts[:, 1].max())

    def numbers(self, number: int) -> list[int]:
        """Per face, the number of the object it is part of: 0 for its pole, say, or without one."""
        if not number:
            return [0] * len(self.label)
        return [
            number + part if label == self.parts[part] else 0
            for label, part in zip(self.label, self.part, strict=True)
        ]

    @cached_property
    def heads(self) -> np.ndarray:
        """First corner of each face, as an array."""
        return np.array(self.start)

    @cached_property
    def third(self) -> np.ndarray:
        """A third of each face's corners; three corners so far apart tell which way it looks."""
        return np.array(self.corners) // 3

    @cached_property
    def solid(self) -> bool:
        """Whether any face can be seen from behind and is then left out."""
        return bool(self.culled.any())

    @cached_property
    def bright(self) -> bool:
        """Whether any face shines."""
        return bool(self.shines.any())


class Builder:
    """Collects faces; those added first are drawn first."""

    def __init__(self, label: int, *others: int) -> None:
        self.label, self.parts = label, (label, *others)
        self._verts: list[tuple[float, float, float]] = []
        self._faces: list[tuple] = []
        self._lamps: list[tuple[float, float, float, float, Color]] = []

    def lamp(self, x: float, y: float, z: float, radius: float, color: Color) -> None:
        """Add a light whose glow is `radius` metres wide."""
        self._lamps.append((x, y, z, radius, color))

    def face(
        self,
        points: Iterable[Sequence[float]],
        color: Color,
        *,
        label: int | None = None,
        size: float = 0.0,
        culled: bool = False,
        shines: bool = False,
        part: int = 0,
    ) -> None:
        """Add one polygon of (x, y) or (x, y, z) points."""
        self.faces([points], color, label=label, size=size, culled=culled, shines=shines, part=part)

    def faces(
        self,
        polygons: Iterable[Iterable[Sequence[float]]],
        color: Color,
        *,
        label: int | None = None,
        size: float = 0.0,
        culled: bool = False,
        shines: bool = False,
        part: int = 0,
    ) -> None:
        """Add polygons of one colour with the same number of corners; they must not overlap."""
        start, count, corners = len(self._verts), 0, 0
        for polygon in polygons:
            points = [p if len(p) == 3 else (p[0], p[1], 0.0) for p in polygon]
            self._verts.extend(points)
            count, corners = count + 1, len(points)
        if count:
            label = self.parts[part] if label is None else label
            if not size:
                size = 0.4 * max(
                    max(axis) - min(axis) for axis in zip(*self._verts[start:], strict=True)
                )
            self._faces.append(
                (start, count, corners, color[::-1], label, size, culled, shines, part)
            )

    def rect(self, x0: float, y0: float, x1: float, y1: float, color: Color, **more) -> None:
        """Add an upright rectangle in the plane z = 0 (or `z=`)."""
        z = more.pop("z", 0.0)
        self.face([(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)], color, **more)

    def disc(self, x: float, y: float, rx: float, ry: float, color: Color, **more) -> None:
        """Add a twelve-sided disc in the plane z = 0."""
        self.face([(x + rx * a, y + ry * b) for a, b in DISC], color, **more)

    def build(self) -> Shape:
        """The finished shape."""
        columns = list(zip(*self._faces, strict=True))
        start, count, corners, bgr, label, size, culled, shines, part = columns
        return Shape(
            np.array(self._verts, np.float64),
            list(start),
            list(count),
            list(corners),
            np.array(bgr, np.float64),
            list(label),
            np.array(size),
            np.array(culled),
            np.array(shines),
            list(part),
            self.parts,
            tuple(self._lamps),
        )


class Canvas:
    """The picture being painted, and the light it is painted in."""

    def __init__(self, view: View, light: Light, ids: bool = False) -> None:
        self.view, self.light = view, light
        self.pixels = np.empty((view.height, view.width, 4), np.uint8)
        self.ids = np.zeros((view.height, view.width), np.uint8) if ids else None
        self.shadow: tuple[int, np.ndarray] | None = None  # first row and mask of what is in shade
        self.limit(view.height)

    def limit(self, last_row: int) -> None:
        """Draw only above this row from here on: the crest of a hill hides what is below."""
        self.last_row = max(last_row, 0)
        self._pixels = self.pixels[: self.last_row]
        self._ids = None if self.ids is None else self.ids[: self.last_row]

    def paint(self, polygons: Sequence[np.ndarray], color: list[float], number: int = 0) -> None:
        """Fill polygons (N, 2), given in 1/16 pixels, with (b, g, r, class)."""
        cv2.fillPoly(self._pixels, polygons, color, shift=SHIFT)
        if self._ids is not None:
            cv2.fillPoly(self._ids, polygons, number, shift=SHIFT)

    def shade(self, polygons: list[np.ndarray]) -> None:
        """Darken what lies under any of the polygons (shadows), keeping the classes."""
        if not polygons:
            return
        top = max(min(int(points[:, 1].min()) for points in polygons) >> SHIFT, 0)
        if top >= self.view.height:
            return
        mask = np.zeros((self.view.height - top, self.view.width), np.uint8)
        for points in polygons:
            cv2.fillPoly(mask, [points - np.array((0, top * UNIT), np.int32)], 1, shift=SHIFT)
        # In one word per pixel: keep 5/8 of every colour, with the class byte left as it is.
        word = self.pixels[top:].view(np.uint32)[..., 0]
        dark = (word >> 1 & 0x7F7F7F) + (word >> 3 & 0x1F1F1F) | word & 0xFF000000
        np.copyto(word, dark, where=mask.view(bool))
        self.shadow = top, mask.view(bool)

    def draw(
        self,
        shape: Shape,
        x: float,
        y: float,
        z: float,
        sine: float,
        cosine: float,
        number: int = 0,
    ) -> None:
        """Draw a shape standing at view coordinates (x, y, z), turned by the given angle."""
        vx, vy, vz = shape.verts.T
        vx, vz = vx * cosine + (vz * sine + x), vz * cosine - (vx * sine - z)
        vy = vy + y
        gain, haze = self.light.on(z)
        colors = shape.bgr * gain + haze
        if shape.bright:
            colors[shape.shines] = self.light.through(shape.bgr[shape.shines], z)
        colors = np.minimum(colors, 255.0).astype(np.int32).tolist()
        numbers = shape.numbers(number)
        nearest = float(vz.min())
        if nearest < NEAR:
            if float(vz.max()) > NEAR:
                self._draw_clipped(shape, vx, vy, vz, colors, numbers)
            return
        points = self.view.screen(vx, vy, vz)
        hidden = shape.size < 2.0 * nearest / self.view.focal
        if shape.solid:
            heads, third = shape.heads, shape.third
            a = points[heads].astype(np.int64)
            b, c = points[heads + third] - a, points[heads + 2 * third] - a
            hidden |= (b[:, 0] * c[:, 1] - b[:, 1] * c[:, 0] >= 0) & shape.culled
        for f in np.flatnonzero(~hidden).tolist():
            start, count, corners = shape.start[f], shape.count[f], shape.corners[f]
            part = points[start : start + count * corners]
            color = colors[f]
            color.append(shape.label[f])
            polygons = [part] if count == 1 else list(part.reshape(count, corners, 2))
            self.paint(polygons, color, numbers[f])

    def _draw_clipped(
        self,
        shape: Shape,
        vx: np.ndarray,
        vy: np.ndarray,
        vz: np.ndarray,
        colors: list[list[int]],
        numbers: list[int],
    ) -> None:
        """Draw a shape that reaches behind the near plane, polygon by polygon."""
        for f, start in enumerate(shape.start):
            color = [*colors[f], shape.label[f]]
            for k in range(shape.count[f]):
                a = start + k * shape.corners[f]
                cut = slice(a, a + shape.corners[f])
                points = clip_near(vx[cut].tolist(), vy[cut].tolist(), vz[cut].tolist())
                if len(points) < 3:
                    continue
                flat = self.view.screen(*(np.array(column) for column in zip(*points, strict=True)))
                if shape.culled[f] and turn(flat.tolist()) >= 0:
                    continue
                self.paint([flat], color, numbers[f])


def turn(points: list[list[int]]) -> int:
    """Twice the signed area of a polygon; negative when it is seen from outside (rows go down)."""
    return sum(
        a[0] * b[1] - a[1] * b[0] for a, b in zip(points, points[1:] + points[:1], strict=True)
    )


def clip_near(x: list[float], y: list[float], z: list[float]) -> list[tuple[float, float, float]]:
    """The part of a polygon that lies beyond the near plane (Sutherland and Hodgman, 1974)."""
    kept = []
    for i in range(len(x)):
        j = i - 1
        if (z[i] >= NEAR) != (z[j] >= NEAR):
            t = (NEAR - z[j]) / (z[i] - z[j])
            kept.append((x[j] + t * (x[i] - x[j]), y[j] + t * (y[i] - y[j]), NEAR))
        if z[i] >= NEAR:
            kept.append((x[i], y[i], z[i]))
    return kept
