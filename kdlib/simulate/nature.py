"""Trees, shrubs and hedges: upright cut-outs in a few shades."""

from kdlib.simulate.classes import VEGETATION
from kdlib.simulate.dice import Dice
from kdlib.simulate.shape import DISC, Builder, Color, Shape, limb


def blob(dice: Dice, x: float, y: float, rx: float, ry: float, rough: float = 0.25) -> list:
    """A ragged disc of twelve corners."""
    out = []
    for a, b in DISC:
        k = 1.0 + dice.uniform(-rough, rough)
        out.append((x + rx * a * k, y + ry * b * k))
    return out


def leaves(
    builder: Builder,
    dice: Dice,
    color: Color,
    x: float,
    y: float,
    rx: float,
    ry: float,
    clumps: int,
) -> None:
    """A crown: dark below, lighter clumps towards the upper left."""
    builder.face(blob(dice, x, y, rx, ry), [c * 0.72 for c in color])
    for k in range(clumps):
        px, py = dice.uniform(-0.62, 0.62), dice.uniform(-0.6, 0.68)
        gain = 0.82 + 0.26 * py - 0.1 * px + 0.12 * (k % 3 - 1)
        size = dice.uniform(0.26, 0.46)
        builder.face(
            blob(dice, x + rx * px, y + ry * py, rx * size, ry * size, 0.32),
            [min(c * gain, 255) for c in color],
            size=0.6 * rx * size,
        )


def tree(dice: Dice, kinds: tuple[tuple[str, float], ...], greens: tuple[Color, ...]) -> Shape:
    """One tree, 4 to 13 m high."""
    builder = Builder(VEGETATION)
    kind = dice.weighted(kinds)
    color = dice.tint(dice.pick(greens), 0.22)
    bark = dice.tint(dice.pick(((84, 66, 52), (104, 92, 80), (66, 56, 48), (176, 172, 164))), 0.2)
    high = dice.uniform(4.5, 11.0)
    trunk = high * dice.uniform(0.25, 0.4)
    r = high * 0.02 + 0.06
    builder.face(limb(0, 0, 0, trunk + 0.8, r * 1.3, r), bark)
    builder.face(
        [(0.02, 0), (r * 1.3, 0), (r, trunk), (0.02, trunk)], [c * 0.7 for c in bark], size=r
    )
    if kind == "round":
        wide = high * dice.uniform(0.24, 0.36)
        for _ in range(dice.integer(1, 2)):
            leaves(
                builder,
                dice,
                color,
                dice.uniform(-0.3, 0.3),
                (high + trunk) / 2,
                wide,
                (high - trunk) / 2 * 1.05,
                dice.integer(7, 12),
            )
    elif kind == "poplar":
        leaves(
            builder,
            dice,
            color,
            0,
            (high * 1.2 + trunk * 0.5) / 2,
            high * 0.13,
            (high * 1.2 - trunk * 0.5) / 2,
            8,
        )
    elif kind == "fir":
        color = [c * 0.75 for c in color]
        for k in range(4):
            y, w = high * (0.16 + 0.2 * k), high * (0.24 - 0.05 * k)
            tip = y + high * 0.32
            builder.face(
                [(-w, y), (w * 0.3, y - 0.12), (w, y + 0.1), (w * 0.12, tip), (-w * 0.1, tip)],
                [c * (0.8 + 0.12 * k) for c in color],
            )
    elif kind == "palm":
        builder.face(limb(0, 0, 0.3, high * 0.8, 0.2, 0.14), bark)
        for a, b in DISC:
            w = high * 0.22
            builder.face(
                [
                    (0.3, high * 0.8),
                    (0.3 + w * a, high * 0.8 + w * (b * 0.6 + 0.15)),
                    (0.3 + w * a * 0.9, high * 0.8 + w * (b * 0.6 - 0.1)),
                ],
                dice.tint(color, 0.2),
            )
    else:
        for _ in range(dice.integer(9, 14)):
            y = dice.uniform(trunk * 0.8, high * 0.8)
            builder.face(
                limb(
                    0, y * 0.9, dice.uniform(-0.25, 0.25) * high, y + high * 0.2, r * 0.5, r * 0.2
                ),
                [c * dice.uniform(0.7, 1.1) for c in bark],
            )
    return builder.build()


def shrub(dice: Dice, greens: tuple[Color, ...]) -> Shape:
    """A bush of 0.8 to 2.5 m."""
    builder = Builder(VEGETATION)
    color = dice.tint(dice.pick(greens), 0.25)
    high = dice.uniform(0.8, 2.4)
    leaves(
        builder,
        dice,
        color,
        0,
        high * 0.48,
        high * dice.uniform(0.6, 1.0),
        high * 0.56,
        dice.integer(4, 7),
    )
    if dice.chance(0.15):
        bloom = dice.pick(((200, 70, 110), (230, 220, 230), (230, 190, 60)))
        for _ in range(6):
            builder.disc(
                dice.uniform(-0.5, 0.5) * high,
                dice.uniform(0.3, 0.9) * high,
                0.1,
                0.1,
                bloom,
                size=0.15,
            )
    return builder.build()


def hedge(dice: Dice, length: float, color: Color, high: float) -> Shape:
    """`length` metres of hedge along z, with a ragged top."""
    builder = Builder(VEGETATION)
    steps = max(int(length), 2)
    tops = [(0.0, high * dice.uniform(0.9, 1.1), length * k / steps) for k in range(steps + 1)]
    builder.face([(0, 0, 0), *tops, (0, 0, length)], [c * 0.8 for c in color])
    for _ in range(int(length * high)):
        z, y = dice.uniform(0, length - 0.5), dice.uniform(0.1, high * 0.85)
        s = dice.uniform(0.2, 0.5)
        builder.face(
            [(0, y, z), (0, y + s, z + s * 0.3), (0, y + s * 0.7, z + s), (0, y - 0.1, z + s)],
            dice.tint(color, 0.25),
            size=s,
        )
    return builder.build()
