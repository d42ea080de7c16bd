"""Buses and trams."""

from kdlib.simulate.bodies import BUS_PAINTS, CAR_PAINTS, GLASS, extrude, lamps, side_panels, wheels
from kdlib.simulate.classes import BUS, TRAIN
from kdlib.simulate.dice import Dice
from kdlib.simulate.shape import Builder, Shape


def coach(dice: Dice, builder: Builder, length: float, high: float, lit: bool, paints) -> None:
    """The body that buses and trams share: a box with a band of windows and doors."""
    half = dice.uniform(1.2, 1.3)
    paint, band = dice.tint(dice.pick(paints), 0.1), dice.tint(dice.pick(paints), 0.1)
    rear, front = -length / 2, length / 2
    profile = [
        (rear, 0.3, 1),
        (rear, high * 0.94, 0.98),
        (rear + 0.25, high, 0.9),
        (front - 0.35, high, 0.9),
        (front - 0.12, high * 0.9, 0.98),
        (front, high * 0.4, 1),
        (front, 0.3, 1),
    ]
    extrude(builder, profile, half, 1.0, 1.0, paint, (4,))
    side_panels(
        builder,
        half * 1.005,
        [
            [
                (rear + 0.1, 0.32),
                (rear + 0.1, high * 0.3),
                (front - 0.1, high * 0.3),
                (front - 0.1, 0.32),
            ]
        ],
        band,
        size=0.4,
    )
    pane = dice.uniform(1.2, 1.9)
    n = max(int((length - 0.8) / pane), 1)
    pane = (length - 0.8) / n
    glow = (232, 222, 170) if lit else GLASS
    y0, y1 = high * 0.43, high * 0.78
    panes = [
        [(z, y0), (z, y1), (z + pane - 0.12, y1), (z + pane - 0.12, y0)]
        for z in (rear + 0.4 + k * pane for k in range(n))
    ]
    side_panels(builder, half * 1.01, panes, glow, size=0.6, shines=lit)
    doors = [
        [(z, 0.45), (z, high * 0.78), (z + 1.1, high * 0.78), (z + 1.1, 0.45)]
        for z in (rear + length * 0.22, front - 1.9)
    ]
    side_panels(builder, half * 1.015, doors, tuple(c * 0.5 + 20 for c in paint), size=0.5)
    for z, order in ((rear - 0.02, 1), (front + 0.02, -1)):
        w = half * 0.85
        y0 = high * (0.5 if order == 1 else 0.42)
        pane_end = [(-w, y0, z), (w, y0, z), (w, high * 0.8, z), (-w, high * 0.8, z)]
        builder.face(
            pane_end[::order],
            glow if order == 1 else GLASS,
            culled=True,
            size=0.6,
            shines=lit and order == 1,
        )
        board = [
            (-w * 0.8, high * 0.84, z),
            (w * 0.8, high * 0.84, z),
            (w * 0.8, high * 0.93, z),
            (-w * 0.8, high * 0.93, z),
        ]
        builder.face(board[::order], (20, 20, 22), culled=True, size=0.3)
        text = [
            (-w * 0.5, high * 0.865, z),
            (w * 0.5, high * 0.865, z),
            (w * 0.5, high * 0.905, z),
            (-w * 0.5, high * 0.905, z),
        ]
        builder.face(text[::order], (255, 176, 40), culled=True, size=0.12, shines=True)
    lamps(builder, half * 0.95, length, 0.75, 1.05, 0.3, lit, dice.chance(0.3))


def bus(dice: Dice, lit: bool) -> Shape:
    """A city bus, single or double deck; 9 to 12 m."""
    builder = Builder(BUS)
    length = dice.uniform(9.0, 12.0)
    high = dice.uniform(2.9, 3.3) if dice.chance(0.8) else dice.uniform(3.9, 4.2)
    coach(dice, builder, length, high, lit, BUS_PAINTS)
    wheels(builder, 1.31, 0.46, [-length * 0.28, length * 0.3], (130, 132, 136))
    return builder.build()


def tram(dice: Dice, lit: bool) -> Shape:
    """One wagon of a tram or light train, with its bogies in skirts and its current collector."""
    builder = Builder(TRAIN)
    length = dice.uniform(12.0, 15.0)
    high = dice.uniform(3.2, 3.6)
    coach(dice, builder, length, high, lit, BUS_PAINTS[:6] + CAR_PAINTS[:2])
    grey = (74, 76, 80)
    builder.face(
        [
            (-0.6, high, -1.0),
            (0.6, high, -1.0),
            (0.6, high + 0.28, -1.0),
            (-0.6, high + 0.28, -1.0),
        ],
        grey,
        size=0.3,
    )
    builder.face(
        [
            (-0.5, high + 0.2, -0.5),
            (-0.42, high + 0.2, -0.5),
            (0.5, high + 1.1, -0.5),
            (0.42, high + 1.1, -0.5),
        ],
        (40, 40, 42),
        size=0.12,
    )
    builder.face(
        [
            (-0.7, high + 1.05, -0.5),
            (0.7, high + 1.05, -0.5),
            (0.7, high + 1.15, -0.5),
            (-0.7, high + 1.15, -0.5),
        ],
        (40, 40, 42),
        size=0.12,
    )
    return builder.build()
