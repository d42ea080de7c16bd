"""What stands beside the street: lamps, poles, traffic lights, litter bins."""

from kdlib.simulate.classes import IGNORE, LIGHT, POLE
from kdlib.simulate.dice import Dice
from kdlib.simulate.shape import Builder, Shape, limb

METALS = ((120, 122, 126), (88, 92, 96), (150, 152, 156), (60, 66, 62), (104, 84, 66))
RED, BLUE, GREEN, YELLOW, WHITE = (
    (196, 28, 34), (26, 78, 168), (16, 106, 72), (240, 196, 36), (238, 238, 236))  # fmt: skip


def street_light(dice: Dice, side: int, lit: bool) -> Shape:
    """A lamp post of 6 to 9 m whose arm reaches over the road; `side` is -1 left, 1 right."""
    builder = Builder(POLE)
    metal = dice.tint(dice.pick(METALS), 0.15)
    high, reach, r = dice.uniform(5.5, 8.5), dice.uniform(0.8, 2.4), dice.uniform(0.1, 0.16)
    builder.face(limb(0, 0, 0, high, r, r * 0.7), metal)
    builder.face(
        [(0.02, 0), (r, 0), (r * 0.7, high), (0.02, high)], [c * 0.7 for c in metal], size=r
    )
    builder.face(limb(0, 0, 0, 0.9, r * 1.5, r * 1.4), metal)
    tip = -side * reach
    builder.face([(0, high - 0.2), (0, high), (tip, high + 0.25), (tip, high + 0.12)], metal)
    lamp = (255, 236, 180) if lit else (190, 192, 190)
    builder.face(
        [
            (tip - 0.35, high + 0.08),
            (tip + 0.35, high + 0.08),
            (tip + 0.3, high + 0.28),
            (tip - 0.3, high + 0.28),
        ],
        lamp,
        label=IGNORE,
        shines=lit,
    )
    if lit:
        builder.lamp(tip, high + 0.16, 0.0, 2.4, lamp)
    return builder.build()


def utility_pole(dice: Dice) -> Shape:
    """A wooden or concrete pole with cross arms."""
    builder = Builder(POLE)
    wood = dice.tint(dice.pick(((104, 80, 60), (140, 134, 126), (84, 66, 52))), 0.15)
    high, r = dice.uniform(6.5, 9.0), dice.uniform(0.13, 0.2)
    builder.face(limb(0, 0, 0, high, r, r * 0.8), wood)
    builder.face(
        [(0.03, 0), (r, 0), (r * 0.8, high), (0.03, high)], [c * 0.7 for c in wood], size=r
    )
    for y in (high - 0.6, high - 1.4)[: dice.integer(1, 2)]:
        builder.rect(-1.1, y, 1.1, y + 0.14, [c * 0.85 for c in wood])
    if dice.chance(0.3):
        builder.rect(0.1, high - 2.4, 0.6, high - 1.5, (120, 124, 124))
    return builder.build()


def bollard(dice: Dice) -> Shape:
    """A low post."""
    builder = Builder(POLE)
    builder.face(limb(0, 0, 0, dice.uniform(0.8, 1.1), 0.09, 0.08), dice.pick(METALS))
    builder.rect(-0.085, 0.7, 0.085, 0.82, dice.pick((RED, WHITE, YELLOW)), size=0.12)
    return builder.build()


def lamp_box(builder: Builder, x: float, y: float, k: float, state: str, part: int) -> None:
    """Three lamps in a box with a backing plate; y is its lower edge, k its scale."""
    builder.rect(x - 0.3 * k, y, x + 0.3 * k, y + 1.15 * k, (24, 25, 26), part=part)
    builder.rect(
        x - 0.2 * k, y + 0.06 * k, x + 0.2 * k, y + 1.09 * k, (46, 48, 46), part=part, size=0.4
    )
    lamps = (
        ("green", (40, 255, 150), 0.24),
        ("yellow", (255, 200, 40), 0.58),
        ("red", (255, 44, 36), 0.91),
    )
    for name, color, up in lamps:
        on = name == state
        shown = color if on else [c * 0.22 for c in color]
        r = 0.16 * k if on else 0.13 * k
        builder.disc(x, y + up * k, r, r, shown, part=part, shines=on)
        if on:
            builder.lamp(x, y + up * k, 0.0, 0.8, color)


def traffic_light(dice: Dice, side: int, reach: float, state: str) -> Shape:
    """Signals on a post, with a second box on an arm over the road when reach > 0."""
    builder = Builder(LIGHT, LIGHT) if reach > 0 else Builder(LIGHT)
    metal = dice.tint(dice.pick((*METALS, YELLOW)), 0.15)
    k = dice.uniform(1.05, 1.5)
    low = dice.uniform(2.3, 3.0)
    high = low + 1.2 * k if reach == 0 else dice.uniform(5.6, 6.4)
    builder.face(limb(0, 0, 0, high, 0.13, 0.11), metal, label=POLE)
    builder.face(
        [(0.02, 0), (0.13, 0), (0.11, high), (0.02, high)],
        [c * 0.7 for c in metal],
        label=POLE,
        size=0.1,
    )
    if reach > 0:
        tip = -side * reach
        builder.face(
            [(0, high - 0.3), (0, high - 0.1), (tip, high + 0.1), (tip, high - 0.02)],
            metal,
            label=POLE,
        )
        lamp_box(builder, tip, high - 1.0 * k, k, state, 1)
    lamp_box(builder, -side * 0.18, low, k, state, 0)
    return builder.build()


def litter_bin(dice: Dice) -> Shape:
    """A bin, a letter box, a cabinet, a cone or a barrier: static things that nobody scores."""
    builder = Builder(IGNORE)
    kind = dice.pick(("bin", "wheelie", "post", "cabinet", "cone", "cone"))
    color = dice.tint(dice.pick(((60, 66, 62), (40, 80, 60), (200, 160, 30), (180, 40, 36))), 0.2)
    if kind == "bin":
        builder.face(limb(0, 0, 0, 0.9, 0.24, 0.28), color)
        builder.face(limb(0, 0.9, 0, 1.0, 0.3, 0.26), [c * 0.6 for c in color])
    elif kind == "wheelie":
        builder.face(limb(0, 0.08, 0, 1.05, 0.26, 0.32), color)
        builder.rect(-0.36, 1.02, 0.36, 1.14, [c * 0.7 for c in color])
        builder.disc(-0.22, 0.1, 0.1, 0.1, (20, 20, 20), size=0.2)
    elif kind == "post":
        builder.face(limb(0, 0, 0, 0.7, 0.05, 0.05), (90, 90, 92))
        builder.rect(-0.3, 0.6, 0.3, 1.3, dice.pick(((206, 30, 36), (236, 190, 30), (30, 70, 150))))
    elif kind == "cabinet":
        builder.rect(-0.5, 0, 0.5, 1.3, (142, 146, 140))
        builder.rect(-0.02, 0.1, 0.02, 1.25, (100, 104, 100), size=0.05)
    else:
        builder.face(limb(0, 0, 0, 0.75, 0.24, 0.05), (236, 96, 30))
        builder.face(limb(0, 0.3, 0, 0.5, 0.16, 0.11), WHITE)
    return builder.build()
