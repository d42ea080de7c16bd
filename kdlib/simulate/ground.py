"""The ground: carriageway, kerbs, sidewalks, verges, side streets and lane markings."""

from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from kdlib.simulate.camera import NEAR, View
from kdlib.simulate.classes import FIRST_MARK, IGNORE, MARKS, ROAD, SIDEWALK
from kdlib.simulate.dice import Dice
from kdlib.simulate.shape import Canvas, Color

STEPS = (0.0, 1.2, 2.2, 3.2, 4.2, 5.4, 6.6, 8.0, 9.6, 11.4, 13.5, 16.0, 19.0, 22.5, 26.5, 31.0,
         36.0, 42.0, 49.0, 57.0, 66.0, 76.0, 88.0, 102.0, 118.0, 136.0, 158.0, 184.0)  # fmt: skip


@dataclass(frozen=True)
class Band:
    """A strip of ground between two offsets, with the heights of its two edges."""

    left: float
    right: float
    left_y: float
    right_y: float
    color: Color
    label: int
    jitter: float  # how much its colour changes from metre to metre


@dataclass(frozen=True)
class Line:
    """A painted lane line. `category` and `dashed` as in BDD100K's lane marking labels."""

    offset: float
    category: str  # single white, single yellow, double white, double yellow
    dashed: bool
    color: Color

    @property
    def kind(self) -> str:
        """Its name among MARKS."""
        return f"dashed {self.category.split()[1]}" if self.dashed else self.category


@dataclass(frozen=True)
class Mark:
    """Anything else painted on the road: polygons of (metres onwards, metres to the right)."""

    kind: str  # one of MARKS
    s: float
    u: float
    polygons: tuple[tuple[tuple[float, float], ...], ...]


@dataclass(frozen=True)
class Ground:
    """Everything flat in a clip."""

    bands: tuple[Band, ...]
    lines: tuple[Line, ...]
    crossings: tuple[tuple[float, float], ...]  # side streets, as station from and to
    zebras: tuple[float, ...]  # stations of crosswalks
    rails: tuple[float, ...]  # offsets of tram rails
    edges: tuple[float, float]  # offsets of the carriageway's edges
    patches: tuple[tuple[float, float, float, float, float], ...]  # s, u, length, width, gain
    asphalt: Color
    paint: Color
    marks: tuple[Mark, ...] = ()
    near: bool = False  # paint that reaches below the picture is drawn


def code(kind: str) -> int:
    """The code of a marking among the classes of a frame that is being drawn."""
    return FIRST_MARK + MARKS.index(kind)


def kerb(u: float, side: int, high: float, color: Color) -> Band:
    """The upright face and top of a kerb at offset u."""
    a, b = (u, u + 0.22) if side > 0 else (u - 0.22, u)
    ya, yb = (0.0, high) if side > 0 else (high, 0.0)
    return Band(a, b, ya, yb, color, SIDEWALK, 0.03)


class GroundPainter:
    """Paints the ground of one frame and keeps what later drawing needs to know of it."""

    def __init__(self, ground: Ground, canvas: Canvas) -> None:
        self.ground, self.canvas, view = ground, canvas, canvas.view
        self.view: View = view
        stations = [view.s + NEAR + 0.35 + d for d in STEPS]
        far = stations[-1]
        for low, high in ground.crossings:
            stations += [s for s in (low, high) if view.s + 1.0 < s < far]
        self.stations = sorted(stations)
        edges = [s for crossing in ground.crossings for s in crossing]
        # Between two cuts the ground has one colour; headlights need finer steps than daylight.
        step = 2 if canvas.light.night else 4
        self.cuts = [
            k
            for k, s in enumerate(self.stations)
            if k % step == 0 or s in edges or k == len(self.stations) - 1
        ]
        frames = np.array([view.place(s, 0.0) for s in self.stations])
        self.x, self.y, self.z, self.sine, self.cosine = frames.T
        self.rows = self._crest()

    def _points(self, u: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Screen points (stations, offsets, 2) of offsets u at heights y."""
        x = self.x[:, None] + u * self.cosine[:, None]
        z = np.maximum(self.z[:, None] - u * self.sine[:, None], NEAR)
        return self.view.screen(x, self.y[:, None] + y, z)

    def _crest(self) -> list[int]:
        """Per station, the row that nearer ground hides everything below."""
        middle = self.view.screen(self.x, self.y, np.maximum(self.z, NEAR))[:, 1] >> 4
        rows, lowest = [], self.view.height
        for row in middle.tolist():
            rows.append(lowest)
            lowest = min(lowest, row)
        return rows

    def last_row(self, s: float) -> int:
        """The first row hidden by a crest, for things that stand at station s."""
        return self.rows[min(bisect_left(self.stations, s), len(self.rows) - 1)]

    def paint(self) -> None:
        """Paint all bands from far to near."""
        ground, light = self.ground, self.canvas.light
        left = np.array([b.left for b in ground.bands])
        right = np.array([b.right for b in ground.bands])
        a = self._points(left, np.array([b.left_y for b in ground.bands]))
        b = self._points(right, np.array([b.right_y for b in ground.bands]))
        for near, far in reversed(list(pairwise(self.cuts))):
            s, z = self.stations[near], float(self.z[near])
            crossing = any(low - 0.01 <= s < high - 0.01 for low, high in ground.crossings)
            for k, band in enumerate(ground.bands):
                wobble = 1.0 + band.jitter * (((int(s / 3) * 7919 + k * 104729) % 61) / 30.0 - 1.0)
                color, label = band.color, band.label
                if crossing and label != ROAD and abs(band.left + band.right) < 110:
                    color, label = ground.asphalt, ROAD
                outline = np.concatenate(
                    (a[near : far + 1, k], b[far : near - 1 if near else None : -1, k])
                )
                shade = light.color([c * wobble for c in color], z + 1.0, label)
                self.canvas.paint([outline], shade)

    def quad(self, s0: float, s1: float, u0: float, u1: float, y: float = 0.0) -> np.ndarray | None:
        """A rectangle on the road as a screen polygon; None where it is too near or hidden."""
        view = self.view
        if s0 < view.s + NEAR + 0.4:
            s0 = view.s + NEAR + 0.4
        if s1 <= s0 or s0 - view.s > 110:
            return None
        (x0, y0, z0, n0, c0), (x1, y1, z1, n1, c1) = view.place(s0, 0.0, y), view.place(s1, 0.0, y)
        z = (z0 - u0 * n0, z0 - u1 * n0, z1 - u1 * n1, z1 - u0 * n1)
        if min(z) < NEAR:
            return None
        points = view.screen(
            np.array((x0 + u0 * c0, x0 + u1 * c0, x1 + u1 * c1, x1 + u0 * c1)),
            np.array((y0, y0, y1, y1)),
            np.array(z),
        )
        if self._over_crest(int(points[0, 1]) >> 4, s0):
            return None
        return points

    def _over_crest(self, row: int, s: float) -> bool:
        """Whether what starts in this row, at station s, lies behind a crest."""
        if self.ground.near:
            row = min(row, self.view.height)
        return row > self.last_row(s) + 2

    def mark(
        self, s0: float, s1: float, u0: float, u1: float, color: Color, label: int = ROAD
    ) -> None:
        """Paint a rectangle on the road."""
        points = self.quad(s0, s1, u0, u1, 0.0)
        if points is not None:
            self.canvas.paint(
                [points], self.canvas.light.color(color, max(s0 - self.view.s, 1.0), label)
            )

    def blocked(self, s: float) -> bool:
        """Whether a side street interrupts the lines at station s."""
        return any(low < s < high for low, high in self.ground.crossings)

    def markings(self) -> None:
        """Paint repairs, rails, lines and crosswalks."""
        ground, start = self.ground, self.view.s
        for s, u, length, width, gain in ground.patches:
            if start < s < start + 60:
                self.mark(s, s + length, u, u + width, [c * gain for c in ground.asphalt])
        for u in ground.rails:
            for s0, s1 in pairwise(self.stations):
                self.mark(s0, s1, u - 0.09, u + 0.09, (92, 88, 86))
        for line in ground.lines:
            for s0, s1 in self.spans(line):
                for shift in (-0.15, 0.15) if line.category.startswith("double") else (0.0,):
                    u = line.offset + shift
                    self.mark(s0, s1, u - 0.085, u + 0.085, line.color, code(line.kind))
        left, right = ground.edges
        for s in ground.zebras:
            if start - 3 < s < start + 70:
                count = int((right - left - 0.6) / 1.0)
                for k in range(count):
                    u = left + 0.5 + k
                    self.mark(s, s + 3.0, u, u + 0.5, ground.paint, code("crosswalk"))
        for mark in ground.marks:
            if start < mark.s < start + 70:
                self._mark(mark)

    def _mark(self, mark: Mark) -> None:
        """Paint a stop line or an arrow, unless a part of it is too near or behind a crest."""
        view, light = self.view, self.canvas.light
        shade = light.color(self.ground.paint, mark.s - view.s, code(mark.kind))
        for polygon in mark.polygons:
            corners = [view.place(mark.s + ds, mark.u + du)[:3] for ds, du in polygon]
            if min(z for _, _, z in corners) < NEAR:
                continue
            points = view.screen(*(np.array(column) for column in zip(*corners, strict=True)))
            if not self._over_crest(int(points[:, 1].max()) >> 4, mark.s):
                self.canvas.paint([points], shade)

    def spans(self, line: Line) -> list[tuple[float, float]]:
        """Stations (from, to) of the visible strokes of a line."""
        start = self.view.s + NEAR + 0.35
        if line.dashed:
            first = int(start / 9.0) * 9
            strokes = [(first + 9.0 * k, first + 9.0 * k + 3.6) for k in range(9)]
        else:
            strokes = list(pairwise(self.stations))
        return [
            (a, b)
            for a, b in strokes
            if b > start and a < start + 90 and not self.blocked((a + b) / 2)
        ]


def bonnet(canvas: Canvas, outline: list[tuple[float, float]], color: Color) -> None:
    """Paint the own car's bonnet, given in parts of the picture, as ignore."""
    view = canvas.view
    points = np.array([(x * view.width * 16, y * view.height * 16) for x, y in outline])
    canvas.limit(view.height)
    canvas.paint([np.rint(points).astype(np.int32)], canvas.light.color(color, 3.0, IGNORE))


def bonnet_outline(dice: Dice) -> list[tuple[float, float]]:
    """The edge of a bonnet that covers 3 to 9 % of the picture's height."""
    top = 1.0 - dice.uniform(0.03, 0.1)
    drop = dice.uniform(0.01, 0.06)
    return [
        (-0.1, 1.2),
        (-0.1, top + drop * 1.4),
        (0.18, top + drop * 0.5),
        (0.4, top),
        (0.6, top),
        (0.82, top + drop * 0.5),
        (1.1, top + drop * 1.4),
        (1.1, 1.2),
    ]
