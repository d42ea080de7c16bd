"""The plan of a clip: the street's measures, its ground, and the list of what stands on it."""

from dataclasses import dataclass, field

from kdlib.simulate import barriers, nature
from kdlib.simulate.classes import ROAD, SIDEWALK, TERRAIN
from kdlib.simulate.dice import Dice
from kdlib.simulate.ground import Band, Ground, Line, kerb
from kdlib.simulate.shape import Shape
from kdlib.simulate.style import WorldStyle

VIEW = 125.0  # metres that can be seen ahead
WHITE = (226, 226, 222)
AHEAD = (0.0, 1.0)  # sine and cosine of the angle to the road's way
WALLS = ((150, 146, 140), (168, 96, 74), (186, 178, 162), (120, 122, 124), (140, 110, 90))
FENCES = ((150, 112, 78), (216, 214, 208), (70, 90, 76), (60, 62, 66), (128, 132, 134),
          (110, 84, 62))  # fmt: skip


@dataclass(frozen=True)
class Thing:
    """One object: where it stands, how it is turned and how it moves."""

    shape: Shape
    s: float
    u: float
    y: float = 0.0
    yaw: tuple[float, float] | None = AHEAD  # None: it faces the camera
    speed: float = 0.0  # m/s along the road
    drift: float = 0.0  # m/s to the right
    deep: float = 0.0  # metres that it reaches beyond s; orders the painting
    reach: float = 70.0  # metres from which it is drawn
    shadow: tuple[float, float] = (0.0, 0.0)  # half width and half length of its shadow
    color: str = "NA"  # state of a traffic light


@dataclass
class Plan:
    """Draws up one clip; the parts share these facts."""

    dice: Dice
    style: WorldStyle
    scene: str
    weather: str
    time: str
    end: float
    things: list[Thing] = field(default_factory=list)

    def __post_init__(self) -> None:
        dice, scene = self.dice, self.scene
        self.night = self.time == "night"
        dim = self.time == "dawn/dusk" or self.weather in ("foggy", "rainy")
        self.lit = self.night or (dim and dice.chance(0.75))
        city, highway = scene == "city street", scene == "highway"
        self.city, self.highway = city, highway
        self.lane = dice.uniform(3.0, 3.5) + 0.3 * highway
        self.ahead = dice.integer(*self.style.ahead[highway])
        self.back = 0 if highway and dice.chance(self.style.oneway) else self.ahead
        self.parking = 2.2 if not highway and dice.chance(0.45) else 0.0
        self.shoulder = dice.uniform(1.2, 2.6) if highway else dice.uniform(0.2, 0.5)
        self.rail_width = 0.0
        if not highway and dice.chance(self.style.rails):
            self.rail_width = 3.2
        self.sidewalk = 0.0 if highway else dice.uniform(2.4, 5.0)
        self.verge = dice.uniform(2.0, 7.0) if highway else dice.uniform(0, 2.5) * dice.chance(0.5)
        way = self.style.way
        own = self.ahead * self.lane + self.parking + self.shoulder
        other = self.back * self.lane + self.shoulder + (self.parking if self.back else 0.0)
        other += self.rail_width
        self.right, self.left = (own, -other) if way > 0 else (other, -own)
        self.front = [
            self.left - self.sidewalk - self.verge,
            self.right + self.sidewalk + self.verge,
        ]
        self.crossings: list[tuple[float, float]] = []
        if not highway:
            s = dice.uniform(12, 70)
            while s < self.end:
                self.crossings.append((s, s + dice.uniform(*self.style.mouth)))
                s += dice.uniform(55, 140)

    def free(self, low: float, high: float) -> bool:
        """Whether no side street crosses the stations from low to high."""
        return all(high < a or low > b for a, b in self.crossings)

    def add(self, shape: Shape, s: float, u: float, **more) -> None:
        """Put a thing into the clip."""
        self.things.append(Thing(shape, s, u, **more))

    def ground(self) -> Ground:
        """Carriageway, sidewalks, verges and everything painted on them."""
        dice, style = self.dice, self.style
        asphalt = dice.tint(dice.pick(style.asphalt), 0.12)
        paving = dice.tint(dice.pick(style.paving), 0.12)
        grass = dice.tint(dice.pick(style.grass), 0.15)
        if self.weather == "rainy":
            asphalt = tuple(c * 0.72 for c in asphalt)
        if self.weather == "snowy":
            grass, paving = dice.tint((222, 226, 232), 0.05), dice.tint((192, 196, 204), 0.08)
        bands = []
        beyond = paving if self.city and dice.chance(0.6) else grass
        label = SIDEWALK if beyond is paving else TERRAIN
        rise = dice.uniform(-0.3, 2.0) if not self.city else 0.0
        for side, edge in ((-1, self.left), (1, self.right)):
            high = 0.13 if self.sidewalk else 0.02
            walk, front = edge + side * self.sidewalk, edge + side * (self.sidewalk + self.verge)
            strips = [
                (front, front + side * 8, high, high, beyond, label, 0.04),
                (front + side * 8, front + side * 120, high, rise + high, grass, TERRAIN, 0.06),
            ]
            if self.verge > 0.3:
                strips.append((walk, front, high, high, grass, TERRAIN, 0.06))
            if self.sidewalk:
                strips.append((edge, walk, high, high, paving, SIDEWALK, 0.045))
            for a, b, ya, yb, color, name, jitter in strips:
                if side < 0:
                    a, b, ya, yb = b, a, yb, ya
                bands.append(Band(a, b, ya, yb, color, name, jitter))
        bands.append(Band(self.left, self.right, 0.0, 0.0, asphalt, ROAD, 0.02))
        if self.parking:
            side = style.way
            edge = self.right if side > 0 else self.left
            gain = dice.uniform(0.8, 1.15)
            strip = sorted((edge, edge - side * self.parking))
            bands.append(Band(*strip, 0.0, 0.0, tuple(c * gain for c in asphalt), ROAD, 0.03))
        if self.sidewalk:
            stone = dice.tint((166, 164, 160), 0.12)
            bands += [kerb(self.left, -1, 0.13, stone), kerb(self.right, 1, 0.13, stone)]
        patches = tuple(
            (
                dice.uniform(0, self.end),
                dice.uniform(self.left, self.right - 2),
                dice.uniform(0.8, 9),
                dice.uniform(0.3, 2.6),
                dice.uniform(0.72, 1.14),
            )
            for _ in range(int(self.end / 5))
        )
        zebras = tuple(s - 4.4 for s, _ in self.crossings if dice.chance(0.75))
        if not self.highway and dice.chance(0.3):
            zebras += (dice.uniform(15, max(self.end - 60, 30)),)
        rails: tuple[float, ...] = ()
        if self.rail_width:
            middle = -style.way * self.rail_width / 2
            rails = (middle - 0.72, middle + 0.72)
        return Ground(
            tuple(bands),
            tuple(self.lines()),
            tuple(self.crossings),
            zebras,
            rails,
            (self.left, self.right),
            patches,
            asphalt,
            dice.tint(WHITE, 0.08),
        )

    def lines(self) -> list[Line]:
        """Lane lines from left to right."""
        dice, way, style = self.dice, self.style.way, self.style
        white = dice.tint(WHITE, 0.08)
        lines: list[Line] = []
        if self.back:
            color = dice.tint(style.centre_line, 0.08)
            tone = "yellow" if style.centre_line[2] < 150 else "white"
            double = dice.chance(0.45)
            lines.append(
                Line(
                    0.0,
                    f"{'double' if double else 'single'} {tone}",
                    not double and dice.chance(0.5),
                    color,
                )
            )
        else:
            lines.append(
                Line(
                    way * 0.15,
                    "single yellow" if dice.chance(0.5) else "single white",
                    False,
                    dice.tint(style.centre_line, 0.08),
                )
            )
        for k in range(1, self.ahead):
            lines.append(Line(way * self.lane * k, "single white", True, white))
        for k in range(1, self.back):
            lines.append(
                Line(-way * (self.rail_width + self.lane * k), "single white", True, white)
            )
        if self.rail_width:
            lines.append(Line(-way * self.rail_width, "single white", False, white))
        if self.highway or dice.chance(0.5):
            lines.append(Line(way * self.lane * self.ahead, "single white", False, white))
        return sorted(lines, key=lambda line: line.offset)

    def run(
        self, kind: str, side: int, s: float, length: float, line: float, low: bool = False
    ) -> None:
        """A wall, a fence or a hedge of one style, in pieces that follow the road."""
        dice = self.dice
        pieces = max(int(length / 5), 1)
        step = length / pieces
        high = dice.uniform(0.8, 1.5) if low else dice.uniform(1.5, 3.2)
        if kind == "wall":
            color = dice.tint(dice.pick(WALLS), 0.15)
            style = (dice.pick(("brick", "panels", "stones")), color, high + 0.4)
            made = [barriers.wall(dice, step, style) for _ in range(min(pieces, 2))]
        elif kind == "fence":
            color = dice.tint(dice.pick(FENCES), 0.15)
            style = (dice.pick(("boards", "rails", "panel", "boards")), color, high)
            made = [barriers.fence(dice, step, style)]
        else:
            color = dice.tint(dice.pick(self.style.greens), 0.15)
            made = [nature.hedge(dice, step, color, high) for _ in range(min(pieces, 2))]
        for k in range(pieces):
            self.add(made[k % len(made)], s + k * step, line, y=0.08, deep=step, reach=VIEW)

    def tree(self, s: float, u: float) -> None:
        """A tree at (s, u), unless it would stand in a side street."""
        if self.free(s - 0.5, s + 0.5):
            shape = nature.tree(self.dice, self.style.trees, self.style.greens)
            self.add(shape, s, u, y=0.08, yaw=None, reach=VIEW, shadow=(1.6, 1.0))
