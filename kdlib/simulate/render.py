"""From a seed to pictures, class masks, boxes and lane lines."""

from dataclasses import dataclass, field

import cv2
import numpy as np

from kdlib.simulate.camera import NEAR, View
from kdlib.simulate.classes import BOXED, FIRST_MARK, LIGHT, MARKS, RIDER, ROAD
from kdlib.simulate.dice import Dice
from kdlib.simulate.ground import GroundPainter, bonnet
from kdlib.simulate.light import Light
from kdlib.simulate.lines import Lane, visible_lines
from kdlib.simulate.plan import Thing
from kdlib.simulate.shape import Canvas, Shape
from kdlib.simulate.sky import Backdrop, sky_colors
from kdlib.simulate.style import WORLDS
from kdlib.simulate.weather import SHEET, Finish
from kdlib.simulate.world import draw_up

OVER = 2  # each picture is painted this many times larger and reduced by area

cv2.setNumThreads(1)


@dataclass(frozen=True)
class Box:
    """A visible object: category of BDD100K, first and last column and row, and attributes.

    `extent` is the box that it would have if nothing hid it, over the picture's edge too. Objects
    with the same `thing` belong together: a rider and what he rides, and both are `ridden`.
    """

    category: str
    x1: int
    y1: int
    x2: int
    y2: int
    occluded: bool
    truncated: bool
    light: str
    extent: tuple[int, int, int, int]
    thing: int
    ridden: bool


@dataclass(frozen=True)
class Frame:
    """One rendered frame: image (H, W, 3) blue, green, red; label (H, W) train ids; both uint8.

    With boxes come the lane lines, the markings (H, W) uint8 as 1 + their place in MARKS, 0 where
    there are none, and the painter of the ground, which knows all that lies on it.
    """

    image: np.ndarray
    label: np.ndarray
    boxes: list[Box] = field(default_factory=list)
    lanes: list[Lane] = field(default_factory=list)
    marks: np.ndarray | None = None
    painter: GroundPainter | None = None


def unmarked(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Train ids, in which paint is road, and markings, from what was drawn."""
    marked = (codes >= FIRST_MARK) & (codes < FIRST_MARK + len(MARKS))
    label = np.where(marked, np.uint8(ROAD), codes)
    return label, np.where(marked, codes - np.uint8(FIRST_MARK - 1), np.uint8(0))


class Renderer:
    """Renders any frame of one clip."""

    def __init__(
        self,
        seed: str,
        world: str = "home",
        size: tuple[int, int] = (144, 256),
        seconds: float = 10.0,
    ) -> None:
        """`size` is (height, width) of the pictures; `seconds` is how long the clip lasts."""
        if not (0 < size[0] <= SHEET[0] and 0 < size[1] <= SHEET[1]) or size[0] % 2 or size[1] % 2:
            raise ValueError(f"size {size}: height and width must be even and at most {SHEET}")
        self.seed, self.size = seed, size
        style = WORLDS[world]
        self.clip, dice = draw_up(seed, style, seconds)
        clip = self.clip
        large = (size[0] * OVER, size[1] * OVER)
        colors = sky_colors(dice, clip.time, clip.weather)
        self.light = Light(dice, clip.time, clip.weather, colors[1][::-1], clip.lit)
        self.backdrop = Backdrop(
            dice,
            large,
            clip.time,
            clip.weather,
            clip.scene,
            clip.lens,
            self.light,
            style.greens,
            colors,
        )
        self.finish = Finish(dice, clip.time, clip.weather, size)
        self.large = large

    def frame(self, time: float, *, boxes: bool = False) -> Frame:
        """The picture `time` seconds into the clip; with boxes and lane lines when asked."""
        clip = self.clip
        view = View(clip.road, clip.lens, self.large, clip.speed * time, clip.offset, clip.turn)
        canvas = Canvas(view, self.light, ids=boxes)
        self.backdrop.paint(canvas, view)
        painter = GroundPainter(clip.ground, canvas)
        painter.paint()
        painter.markings()
        lamps, drawn = self._things(canvas, painter, time)
        if clip.bonnet is not None:
            bonnet(canvas, clip.bonnet, clip.bonnet_color)
        height, width = self.size
        image = cv2.resize(canvas.pixels, (width, height), interpolation=cv2.INTER_AREA)[..., :3]
        label, marks = unmarked(canvas.pixels[1::OVER, 1::OVER, 3])
        dice = Dice(self.seed, "frame", int(time * 1000 + 0.5))
        image = self.finish.apply(image, label, view, dice, lamps)
        if not boxes:
            return Frame(image, label)
        ids = canvas.ids[1::OVER, 1::OVER]
        return Frame(
            image, label, self._boxes(ids, drawn), visible_lines(painter, OVER), marks, painter
        )

    def _things(self, canvas: Canvas, painter: GroundPainter, time: float) -> tuple[list, list]:
        """Draw all things from far to near; their glowing lamps and their numbers."""
        view = canvas.view
        seen: list[tuple[float, float, float, Thing]] = []
        for thing in self.clip.things:
            s = thing.s + thing.speed * time
            if -6.0 - thing.deep < s - view.s < thing.reach:
                u = thing.u + thing.drift * time
                seen.append((s + thing.deep, abs(u), s, thing))
        seen.sort(key=lambda entry: (-entry[0], -entry[1]))
        if not self.light.night:
            canvas.shade(self._shadows(painter, seen, time))
        lamps, drawn, number = [], [], 0
        for _, _, s, thing in seen:
            u = thing.u + thing.drift * time
            x, y, z, sine, cosine = view.place(s, u, thing.y)
            shape = thing.shape
            out_of_sight = (abs(x) - shape.radius) * view.focal > 0.62 * view.width * (
                z + shape.radius
            )
            if out_of_sight or z + shape.radius < NEAR:
                continue
            if thing.yaw is None:
                if z < 2.0:
                    continue
                sine, cosine = 0.0, 1.0
            else:
                a, b = thing.yaw
                sine, cosine = sine * b + cosine * a, cosine * b - sine * a
            if shape.top * view.focal < 2.0 * z:
                continue
            canvas.limit(painter.last_row(s))
            if canvas.ids is not None and shape.parts[0] in BOXED and number < 250:
                number += 2
                drawn.append((number - 1, thing, self._extent(view, shape, x, y, z, sine, cosine)))
                canvas.draw(shape, x, y, z, sine, cosine, number - 1)
            else:
                canvas.draw(shape, x, y, z, sine, cosine)
            if self.light.lit:
                lamps += self._lamps(view, shape, x, y, z, sine, cosine)
        canvas.limit(view.height)
        # A lamp glows only where its bright face was not painted over by something nearer.
        visible = [
            (column // OVER, row // OVER, *rest)
            for column, row, *rest in lamps
            if 0 <= column < view.width
            and 0 <= row < view.height
            and int(canvas.pixels[row, column, :3].max()) > 175
        ]
        return visible, drawn

    def _shadows(self, painter: GroundPainter, seen: list, time: float) -> list[np.ndarray]:
        """Screen polygons of shadows on the ground: under things, and beside tall ones in sun."""
        sun, polygons = self.clip.sun, []
        for _, _, s, thing in seen:
            if s - painter.view.s > 60:
                continue
            u, (w, d) = thing.u + thing.drift * time, thing.shadow
            if thing.deep and sun * u < 0:
                # Buildings and walls on the sunny side darken the street.
                reach = min(thing.shape.top * abs(sun), 16.0)
                polygons.append(
                    painter.quad(
                        s, s + thing.deep, *sorted((u, u + (reach if sun > 0 else -reach)))
                    )
                )
            elif w:
                left, right = max(-sun, 0.0) * 1.6 * w, max(sun, 0.0) * 1.6 * w
                polygons.append(painter.quad(s - d, s + d, u - w - left, u + w + right, thing.y))
        return [points for points in polygons if points is not None]

    def _lamps(
        self, view: View, shape: Shape, x: float, y: float, z: float, sine: float, cosine: float
    ) -> list[tuple]:
        """The lamps of a shape as (column, row, radius, b, g, r); place in large pixels."""
        out = []
        for lx, ly, lz, radius, color in shape.lamps:
            pz = z + lz * cosine - lx * sine
            if pz > 3.0:
                column, row = view.point(x + lx * cosine + lz * sine, y + ly, pz)
                shown = self.light.through(np.array(color[::-1]), pz).tolist()
                out.append((column, row, min(int(radius * view.focal / pz / OVER), 48), *shown))
        return out

    def _extent(
        self, view: View, shape: Shape, x: float, y: float, z: float, sine: float, cosine: float
    ) -> list[tuple[int, int, int, int]]:
        """Where each part of a shape would reach (x1, y1, x2, y2), in large pixels, unclipped."""
        verts = shape.verts
        vz = np.maximum(verts[:, 2] * cosine - verts[:, 0] * sine + z, NEAR)
        points = (
            view.screen(verts[:, 0] * cosine + verts[:, 2] * sine + x, verts[:, 1] + y, vz) >> 4
        )
        extents = []
        for part in range(len(shape.parts)):
            rows = [
                np.arange(a, a + n * c)
                for a, n, c, p, label in zip(
                    shape.start,
                    shape.count,
                    shape.corners,
                    shape.part,
                    shape.label,
                    strict=True,
                )
                if p == part and label == shape.parts[part]
            ]
            chosen = points[np.concatenate(rows)]
            extents.append((*chosen.min(axis=0).tolist(), *chosen.max(axis=0).tolist()))
        return extents

    def _boxes(self, ids: np.ndarray, drawn: list) -> list[Box]:
        """Boxes around what can be seen of each thing, nearest last."""
        height, width = self.size
        out = []
        for number, thing, extents in drawn:
            for part, label in enumerate(thing.shape.parts):
                rows, columns = np.nonzero(ids == number + part)
                if len(rows) < 12:
                    continue
                x0, y0, x1, y1 = (v // OVER for v in extents[part])
                box = (int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max()))
                full = (min(x1, width - 1) - max(x0, 0) + 1) * (
                    min(y1, height - 1) - max(y0, 0) + 1
                )
                seen = (box[2] - box[0] + 1) * (box[3] - box[1] + 1)
                out.append(
                    Box(
                        BOXED[label],
                        *box,
                        seen < 0.8 * full,
                        x0 < -1 or y0 < -1 or x1 > width or y1 > height,
                        thing.color if label == LIGHT else "NA",
                        (x0, y0, x1, y1),
                        number,
                        RIDER in thing.shape.parts,
                    )
                )
        return out
