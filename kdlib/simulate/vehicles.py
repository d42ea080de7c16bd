"""Cars and trucks."""

from kdlib.simulate.bodies import (
    BUS_PAINTS,
    CAR_PAINTS,
    GLASS,
    box,
    extrude,
    lamps,
    side_panels,
    wheels,
)
from kdlib.simulate.classes import CAR, TRUCK
from kdlib.simulate.dice import Dice
from kdlib.simulate.shape import Builder, Shape

# Side views: (z, y, width share) from the rear bumper over the roof to the front bumper, for a
# length and height of 1; then the side windows as (z, y) and the strips that are glass.
CAR_BODIES = {
    "sedan": ([(-.5, .18, .96), (-.5, .58, 1), (-.36, .63, .98), (-.2, .98, .8), (.08, 1., .8),
               (.24, .64, .96), (.46, .54, .98), (.5, .42, .96), (.5, .16, .94)],
              [[(-.3, .66), (-.18, .93), (-.06, .95), (-.06, .66)],
               [(-.03, .66), (-.03, .95), (.07, .95), (.19, .66)]], (2, 4), 1.45),
    "hatch": ([(-.5, .18, .96), (-.5, .6, 1), (-.42, .95, .82), (-.3, 1., .8), (.1, 1., .8),
               (.28, .64, .96), (.47, .54, .98), (.5, .4, .96), (.5, .16, .94)],
              [[(-.42, .65), (-.37, .92), (-.12, .95), (-.12, .65)],
               [(-.08, .65), (-.08, .95), (.09, .95), (.22, .65)]], (1, 4), 1.52),
    "suv": ([(-.5, .24, .98), (-.5, .62, 1), (-.46, .95, .86), (-.38, 1., .84), (.08, 1., .84),
             (.24, .66, .98), (.46, .6, .98), (.5, .5, .98), (.5, .2, .96)],
            [[(-.44, .66), (-.4, .93), (-.16, .95), (-.16, .66)],
             [(-.12, .66), (-.12, .95), (.07, .95), (.19, .66)]], (1, 4), 1.75),
    "van": ([(-.5, .16, 1), (-.5, .55, 1), (-.49, .97, .92), (-.44, 1., .9), (.2, 1., .9),
             (.37, .58, .98), (.48, .46, .98), (.5, .38, .98), (.5, .14, .96)],
            [[(-.45, .6), (-.45, .92), (-.12, .94), (-.12, .6)],
             [(-.06, .58), (-.06, .94), (.18, .94), (.32, .58)]], (1, 4), 1.95),
}  # fmt: skip


def car(dice: Dice, lit: bool) -> Shape:
    """A passenger car; about 4.4 m long."""
    kind = dice.weighted((("sedan", 4), ("hatch", 4), ("suv", 4), ("van", 1.5)))
    profile, windows, glass, height = CAR_BODIES[kind]
    length = dice.uniform(3.9, 4.9) if kind != "van" else dice.uniform(4.6, 5.6)
    height *= dice.uniform(0.94, 1.06)
    half = dice.uniform(0.86, 0.95)
    paint = dice.tint(dice.pick(CAR_PAINTS), 0.15)
    builder = Builder(CAR)
    bottom = [
        (-half, 0.05, -length * 0.46),
        (half, 0.05, -length * 0.46),
        (half, 0.35, -length * 0.46),
        (-half, 0.35, -length * 0.46),
    ]
    builder.face(bottom, (16, 16, 17))
    builder.face([(x, y, -z) for x, y, z in bottom], (16, 16, 17))
    extrude(builder, profile, half, length, height, paint, glass)
    panels = [[(z * length, y * height) for z, y in w] for w in windows]
    side_panels(builder, half * 0.93, panels, dice.tint(GLASS, 0.3), size=0.4)
    sill = [
        [
            (-length * 0.46, height * 0.14),
            (-length * 0.46, height * 0.24),
            (length * 0.46, height * 0.24),
            (length * 0.46, height * 0.14),
        ]
    ]
    side_panels(builder, half * 1.01, sill, tuple(c * 0.45 for c in paint), size=0.15)
    wheels(
        builder,
        half * 1.02,
        0.31 + 0.04 * (kind == "suv"),
        [-length * 0.3, length * 0.31],
        dice.pick(((150, 152, 156), (70, 72, 76), (190, 192, 196))),
    )
    lamps(
        builder,
        half * 0.95,
        length,
        height * 0.42,
        height * dice.uniform(0.5, 0.57),
        dice.uniform(0.22, 0.45),
        lit,
        dice.chance(0.3),
    )
    return builder.build()


def truck(dice: Dice, lit: bool) -> Shape:
    """A lorry with a box, a tank, a tipper or a pick-up's bed; 5.5 to 11 m long."""
    builder = Builder(TRUCK)
    kind = dice.weighted((("box", 5), ("curtain", 3), ("tipper", 2), ("flat", 1)))
    half = dice.uniform(1.1, 1.27)
    length = dice.uniform(6.5, 11.0)
    cab = dice.uniform(1.9, 2.4)
    cab_high = dice.uniform(2.5, 3.1)
    paint = dice.tint(dice.pick(CAR_PAINTS + BUS_PAINTS), 0.12)
    load = dice.tint(
        dice.pick(
            (
                (232, 232, 230),
                (210, 214, 220),
                (60, 90, 140),
                (170, 60, 50),
                (90, 120, 80),
                (200, 170, 90),
            )
        ),
        0.1,
    )
    rear, front = -length / 2, length / 2
    top = {
        "box": dice.uniform(3.1, 3.8),
        "curtain": dice.uniform(3.3, 3.9),
        "tipper": dice.uniform(1.9, 2.5),
        "flat": 1.45,
    }[kind]
    box(builder, half * 0.9, 0.35, 1.0, rear, front, (34, 35, 38))
    shift = front - cab
    profile = [
        (shift, 0.5, 1),
        (shift, cab_high, 0.96),
        (front - 0.35, cab_high, 0.94),
        (front - 0.05, cab_high * 0.56, 1),
        (front, 0.45, 1),
    ]
    extrude(builder, profile, half, 1.0, 1.0, paint, (2,))
    window = [
        [
            (shift + 0.7, 1.5),
            (shift + 0.7, cab_high - 0.35),
            (front - 0.45, cab_high - 0.35),
            (front - 0.15, 1.55),
        ]
    ]
    side_panels(builder, half * 1.01, window, GLASS, size=0.5)
    box(builder, half, 0.95, top, rear, shift - 0.15, load)
    back = rear - 0.02
    if kind in ("box", "curtain"):
        line = tuple(c * 0.6 for c in load)
        builder.face(
            [
                (-0.03, 1.05, back),
                (0.03, 1.05, back),
                (0.03, top - 0.1, back),
                (-0.03, top - 0.1, back),
            ],
            line,
            culled=True,
            size=0.08,
        )
        band = dice.tint(dice.pick(BUS_PAINTS), 0.2)
        y0, y1 = top * 0.45, top * dice.uniform(0.6, 0.8)
        side_panels(
            builder,
            half * 1.01,
            [[(rear + 0.5, y0), (rear + 0.5, y1), (shift - 1.0, y1), (shift - 1.0, y0)]],
            band,
            size=0.5,
        )
    else:
        ribs = [
            [(z, 1.0), (z, top), (z + 0.12, top), (z + 0.12, 1.0)]
            for z in (rear + k * 0.9 for k in range(int((shift - rear) / 0.9)))
        ]
        side_panels(builder, half * 1.01, ribs, tuple(c * 0.7 for c in load), size=0.12)
    wheels(builder, half * 1.01, 0.48, [rear + 0.9, rear + 2.0, front - 1.1], (120, 122, 124))
    lamps(builder, half * 0.95, length, 0.6, 0.85, 0.35, lit, dice.chance(0.3))
    return builder.build()
