"""Houses, blocks of flats, offices, sheds: boxes with windows on two faces."""

from dataclasses import dataclass

from kdlib.simulate.classes import BUILDING
from kdlib.simulate.dice import Dice
from kdlib.simulate.shape import Builder, Color, Shape

LIT = ((255, 222, 150), (255, 204, 120), (236, 236, 214), (255, 186, 96))
SHOPS = ((180, 40, 40), (40, 90, 150), (40, 120, 80), (220, 170, 50), (120, 50, 110),
         (230, 230, 226), (40, 40, 44), (222, 110, 50))  # fmt: skip


@dataclass
class Facade:
    """One face of a building, addressed by (along, up) in metres.

    A face lies in the plane x = `at` (along z) or, with `across`, in the plane z = `at` (along x).
    """

    builder: Builder
    at: float
    across: bool
    side: int
    gain: float

    def quad(self, a0: float, y0: float, a1: float, y1: float) -> list:
        """An upright rectangle of this face."""
        corners = ((a0, y0), (a1, y0), (a1, y1), (a0, y1))
        if self.across:
            return [(self.side * a, y, self.at) for a, y in corners]
        return [(self.at, y, a) for a, y in corners]

    def rect(self, a0: float, y0: float, a1: float, y1: float, color: Color, **more) -> None:
        """Paint a rectangle of this face."""
        gain = 1.0 if more.get("shines") else self.gain
        self.builder.face(self.quad(a0, y0, a1, y1), [c * gain for c in color], **more)

    def rects(self, quads: list, color: Color, **more) -> None:
        """Paint several rectangles, as from `quad`, of one colour."""
        gain = 1.0 if more.get("shines") else self.gain
        self.builder.faces(quads, [c * gain for c in color], **more)


def windows(dice: Dice, face: Facade, width: float, low: float, high: float, plan: dict) -> None:
    """Rows of windows between the heights `low` and `high`."""
    floors = max(int((high - low) / plan["floor"]), 1)
    columns = max(int((width - 0.8) / plan["column"]), 1)
    column, floor = (width - 0.8) / columns, (high - low) / floors
    w, h = column * plan["wide"], floor * plan["tall"]
    frames, dark, lit = [], [], []
    for row in range(floors):
        y = low + row * floor + (floor - h) * 0.45
        for k in range(columns):
            a = 0.4 + k * column + (column - w) / 2
            frames.append(face.quad(a - 0.09, y - 0.09, a + w + 0.09, y + h + 0.09))
            (lit if dice.chance(plan["lit"]) else dark).append(face.quad(a, y, a + w, y + h))
    if plan["frame"] is not None:
        face.rects(frames, plan["frame"], size=0.5)
    face.rects(dark, plan["glass"], size=0.5)
    face.rects(lit, plan["lamp"], size=0.5, shines=plan["night"])
    if plan["bands"]:
        face.rects(
            [
                face.quad(0, low + r * floor - 0.12, width, low + r * floor + 0.12)
                for r in range(floors + 1)
            ],
            plan["trim"],
            size=0.24,
        )
    if plan["balcony"]:
        face.rects(
            [
                face.quad(
                    0.4 + k * column,
                    low + r * floor,
                    0.2 + (k + 1) * column,
                    low + r * floor + floor * 0.34,
                )
                for r in range(floors)
                for k in range(0, columns, 2)
            ],
            plan["trim"],
            size=0.6,
        )


def shop_front(dice: Dice, face: Facade, width: float, high: float, night: bool) -> None:
    """Shop windows, signs over them, awnings and doors."""
    a = 0.0
    while a < width - 2.0:
        wide = min(dice.uniform(3.5, 7.0), width - a)
        lit = night and dice.chance(0.75)
        pane = dice.tint(dice.pick(LIT), 0.1) if lit else dice.tint((70, 78, 84), 0.35)
        face.rect(a + 0.2, 0.4, a + wide - 0.2, high * 0.72, pane, size=0.5, shines=lit)
        door = a + wide * dice.uniform(0.3, 0.7)
        face.rect(door, 0.0, door + 1.1, high * 0.7, dice.tint((50, 44, 42), 0.4), size=0.5)
        board = dice.tint(dice.pick(SHOPS), 0.15)
        face.rect(
            a + 0.15,
            high * 0.74,
            a + wide - 0.15,
            high * 0.98,
            board,
            size=0.4,
            shines=lit and dice.chance(0.5),
        )
        text = dice.uniform(0.2, 0.4) * wide
        face.rect(
            a + text,
            high * 0.8,
            a + wide - text,
            high * 0.92,
            dice.pick(((240, 240, 236), (30, 30, 32), (250, 220, 90))),
            size=0.25,
        )
        if dice.chance(0.35):
            stripe = dice.pick(SHOPS)
            for k in range(6):
                x0 = a + 0.2 + (wide - 0.4) * k / 6
                face.rect(
                    x0,
                    high * 0.6,
                    x0 + (wide - 0.4) / 6,
                    high * 0.76,
                    stripe if k % 2 else (236, 234, 226),
                    size=0.5,
                )
        a += wide


def block(
    dice: Dice,
    side: int,
    length: float,
    depth: float,
    high: float,
    paint: Color,
    kind: str,
    night: bool,
) -> Shape:
    """A building whose front lies along z from 0 to length at x = 0, its bulk away from the road.

    `side` is 1 right of the road, -1 left of it. The end at z = 0 is what oncoming traffic sees.
    """
    builder = Builder(BUILDING)
    trim = dice.tint(dice.pick(((226, 222, 212), (120, 112, 104), (90, 88, 90))), 0.15)
    glass = dice.tint(dice.pick(((52, 62, 74), (80, 98, 116), (36, 40, 46), (112, 134, 150))), 0.2)
    sun = dice.uniform(0.62, 0.95)
    plan = {
        "floor": dice.uniform(2.8, 3.6),
        "column": dice.uniform(1.7, 3.4),
        "wide": dice.uniform(0.36, 0.62),
        "tall": dice.uniform(0.42, 0.64),
        "trim": trim,
        "glass": glass,
        "frame": trim if dice.chance(0.6) else None,
        "lamp": dice.pick(LIT),
        "lit": dice.uniform(0.12, 0.5) if night else 0.0,
        "night": night,
        "bands": dice.chance(0.4),
        "balcony": dice.chance(0.25),
    }
    if kind == "office":
        plan |= {"wide": 0.9, "tall": dice.uniform(0.6, 0.86), "frame": None, "balcony": False}
    faces = [
        (Facade(builder, 0.0, True, side, sun), depth),
        (Facade(builder, 0.0, False, side, min(1.55 - sun, 0.95)), length),
    ]
    if kind == "house":
        ridge = high + dice.uniform(1.6, 3.2)
        roof = dice.tint(
            dice.pick(((140, 62, 44), (84, 76, 74), (110, 88, 72), (60, 62, 68))), 0.15
        )
        over = 0.4
        builder.face(
            [(0, high, 0), (side * depth, high, 0), (side * depth / 2, ridge, 0)],
            [c * sun for c in paint],
        )
        builder.face(
            [
                (-side * over, high - 0.15, -over),
                (side * depth / 2, ridge + 0.1, -over),
                (side * depth / 2, ridge + 0.1, length),
                (-side * over, high - 0.15, length),
            ],
            roof,
        )
    for face, width in faces:
        face.rect(0, 0, width, high, paint)
        low = 0.6
        if kind == "shops":
            low = dice.uniform(3.2, 4.0)
            face.rect(0, 0, width, low, trim)
            shop_front(dice, face, width, low, night)
        elif kind == "shed":
            ribs = [face.quad(a, 0, a + 0.25, high) for a in range(0, int(width), 1)]
            face.rects(ribs, [c * 0.9 for c in paint], size=0.25)
            face.rect(width * 0.3, 0, width * 0.3 + 4, min(4.0, high * 0.7), trim, size=0.5)
        else:
            door = width * dice.uniform(0.2, 0.7)
            face.rect(door, 0, door + 1.2, 2.3, dice.tint(dice.pick(SHOPS), 0.2), size=0.6)
            if kind == "house":
                low = 0.3
        if kind != "shed":
            windows(dice, face, width, low, high - 0.4, plan)
        if kind != "house":
            face.rect(0, high - 0.35, width, high, trim, size=0.35)
    if kind in ("flats", "office") and dice.chance(0.5):
        grey = dice.tint((120, 120, 124), 0.2)
        Facade(builder, side * depth * 0.3, False, side, 0.9).rect(
            length * 0.3, high, length * 0.5, high + 1.8, grey
        )
    return builder.build()
