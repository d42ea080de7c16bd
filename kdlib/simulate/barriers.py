"""Fences and walls, in pieces along the road."""

from kdlib.simulate.classes import FENCE, WALL
from kdlib.simulate.dice import Dice
from kdlib.simulate.shape import Builder, Color, Shape
from kdlib.simulate.street import BLUE, GREEN, RED, YELLOW


def planks(
    builder: Builder, base: Color, length: float, high: float, step: float, width: float
) -> None:
    """Upright boards along z from 0 to length."""
    count = int(length / step)
    builder.faces(
        [
            [
                (0, 0.05, k * step),
                (0, high, k * step),
                (0, high, k * step + width),
                (0, 0.05, k * step + width),
            ]
            for k in range(count)
        ],
        base,
        size=width,
    )


def fence(dice: Dice, length: float, style: tuple) -> Shape:
    """`length` metres of fence along z; style = (kind, colour, height), shared by a whole run."""
    kind, color, high = style
    builder = Builder(FENCE)
    dark = [c * 0.6 for c in color]
    builder.face(
        [(0, 0, 0), (0, high, 0), (0, high, length), (0, 0, length)],
        dark if kind != "panel" else color,
    )
    if kind == "boards":
        planks(builder, color, length, high, 0.3, 0.24)
    elif kind == "rails":
        planks(builder, color, length, high, 0.5, 0.14)
        for y in (0.25 * high, 0.85 * high):
            builder.face(
                [(0, y, 0), (0, y + 0.12, 0), (0, y + 0.12, length), (0, y, length)], color
            )
    else:
        for z in (0.0, length / 2):
            builder.face(
                [(0, 0, z), (0, high + 0.1, z), (0, high + 0.1, z + 0.14), (0, 0, z + 0.14)], dark
            )
        builder.face(
            [(0, high * 0.9, 0), (0, high, 0), (0, high, length), (0, high * 0.9, length)],
            dark,
            size=0.1,
        )
    return builder.build()


def wall(dice: Dice, length: float, style: tuple) -> Shape:
    """`length` metres of free-standing wall along z; style = (kind, colour, height)."""
    kind, color, high = style
    builder = Builder(WALL)
    builder.face([(0, 0, 0), (0, high, 0), (0, high, length), (0, 0, length)], color)
    dark, light = [c * 0.82 for c in color], [min(c * 1.15, 255) for c in color]
    builder.face(
        [(0, high - 0.16, 0), (0, high, 0), (0, high, length), (0, high - 0.16, length)],
        light,
        size=0.16,
    )
    if kind == "brick":
        rows = int(high / 0.3)
        builder.faces(
            [
                [
                    (0, r * 0.3, 0),
                    (0, r * 0.3 + 0.07, 0),
                    (0, r * 0.3 + 0.07, length),
                    (0, r * 0.3, length),
                ]
                for r in range(1, rows)
            ],
            dark,
            size=0.1,
        )
    elif kind == "panels":
        builder.faces(
            [
                [(0, 0, z), (0, high, z), (0, high, z + 0.2), (0, 0, z + 0.2)]
                for z in (k * 2.0 for k in range(int(length / 2) + 1))
            ],
            dark,
            size=0.2,
        )
    else:
        for _ in range(int(length * high / 3)):
            z, y = dice.uniform(0, length - 0.8), dice.uniform(0, high - 0.4)
            builder.face(
                [(0, y, z), (0, y + 0.34, z), (0, y + 0.34, z + 0.7), (0, y, z + 0.7)],
                dice.tint(color, 0.15),
                size=0.3,
            )
    if dice.chance(0.25):
        z = dice.uniform(0, max(length - 3, 0.1))
        builder.face(
            [(0, 0.3, z), (0, high * 0.7, z + 0.2), (0, high * 0.6, z + 2.2), (0, 0.4, z + 2.5)],
            dice.pick((RED, BLUE, GREEN, YELLOW, (90, 60, 120))),
            size=0.8,
        )
    return builder.build()
