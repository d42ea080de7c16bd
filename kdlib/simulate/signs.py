"""Traffic signs: plates on posts, direction signs beside and over the road."""

from kdlib.simulate.classes import POLE, SIGN
from kdlib.simulate.dice import Dice
from kdlib.simulate.shape import Builder, Shape, limb
from kdlib.simulate.street import BLUE, GREEN, METALS, RED, WHITE, YELLOW


def sign_face(builder: Builder, dice: Dice, y: float, r: float, kind: str, part: int) -> None:
    """The plate of a sign with its symbol; y is its centre, r its half size, part as in Builder."""
    edge = [(0.0, 1.0), (0.87, -0.5), (-0.87, -0.5)]
    eight = [
        (0.41, 1),
        (1, 0.41),
        (1, -0.41),
        (0.41, -1),
        (-0.41, -1),
        (-1, -0.41),
        (-1, 0.41),
        (-0.41, 1),
    ]
    ink = (20, 20, 22)

    def scaled(points, f):
        return [(x * r * f, y + v * r * f) for x, v in points]

    if kind == "limit":
        builder.disc(0, y, r, r, RED, part=part)
        builder.disc(0, y, r * 0.76, r * 0.76, WHITE, part=part)
        builder.rect(-r * 0.4, y - r * 0.35, -r * 0.06, y + r * 0.35, ink, size=r * 0.5, part=part)
        builder.rect(r * 0.08, y - r * 0.35, r * 0.42, y + r * 0.35, ink, size=r * 0.5, part=part)
    elif kind == "warning":
        builder.face(scaled(edge, 1.15), RED, part=part)
        builder.face(scaled(edge, 0.78), dice.pick((WHITE, YELLOW)), part=part)
        builder.rect(-r * 0.08, y - r * 0.2, r * 0.08, y + r * 0.4, ink, size=r * 0.4, part=part)
    elif kind == "stop":
        builder.face(scaled(eight, 1.0), WHITE, part=part)
        builder.face(scaled(eight, 0.9), RED, part=part)
        builder.rect(-r * 0.7, y - r * 0.18, r * 0.7, y + r * 0.18, WHITE, size=r * 0.5, part=part)
    elif kind == "diamond":
        builder.face(scaled([(0, 1.1), (1.1, 0), (0, -1.1), (-1.1, 0)], 1.0), YELLOW, part=part)
        builder.rect(-r * 0.1, y - r * 0.5, r * 0.1, y + r * 0.5, ink, size=r * 0.4, part=part)
    elif kind == "blue":
        builder.disc(0, y, r, r, BLUE, part=part)
        builder.face(
            scaled(
                [
                    (-0.12, -0.6),
                    (0.12, -0.6),
                    (0.12, 0.1),
                    (0.4, 0.1),
                    (0, 0.65),
                    (-0.4, 0.1),
                    (-0.12, 0.1),
                ],
                1.0,
            ),
            WHITE,
            size=r * 0.5,
            part=part,
        )
    elif kind == "parking":
        builder.rect(-r * 0.85, y - r, r * 0.85, y + r, BLUE, part=part)
        builder.rect(-r * 0.35, y - r * 0.7, r * 0.0, y + r * 0.7, WHITE, size=r * 0.5, part=part)
        builder.rect(r * 0.0, y, r * 0.45, y + r * 0.65, WHITE, size=r * 0.5, part=part)
    else:
        builder.rect(-r * 0.8, y - r * 1.1, r * 0.8, y + r * 1.1, WHITE, part=part)
        builder.rect(
            -r * 0.6,
            y + r * 0.3,
            r * 0.6,
            y + r * 0.8,
            dice.pick((ink, RED, BLUE)),
            size=r * 0.5,
            part=part,
        )
        builder.rect(-r * 0.6, y - r * 0.6, r * 0.6, y - r * 0.1, ink, size=r * 0.5, part=part)


def traffic_sign(dice: Dice, kinds: tuple[str, ...]) -> Shape:
    """One or two plates on a post; sometimes seen from their grey back."""
    back = dice.chance(0.12)
    two = not back and dice.chance(0.35)
    builder = Builder(SIGN, SIGN) if two else Builder(SIGN)
    metal = dice.tint(dice.pick(METALS), 0.15)
    high = dice.uniform(2.1, 2.9)
    r = dice.uniform(0.36, 0.52)
    builder.face(limb(0, 0, 0, high + r, 0.07, 0.07), metal, label=POLE)
    if back:
        builder.disc(0, high, r, r, (136, 138, 140))
        return builder.build()
    sign_face(builder, dice, high, r, dice.pick(kinds), 0)
    if two:
        sign_face(builder, dice, high - 2.1 * r, r * 0.85, dice.pick(kinds), 1)
    return builder.build()


def guide_sign(dice: Dice) -> Shape:
    """A large direction sign on two posts."""
    builder = Builder(SIGN)
    ground = dice.pick((BLUE, GREEN, GREEN, (236, 190, 40), WHITE))
    ink = (24, 24, 26) if sum(ground) > 400 else WHITE
    w, h = dice.uniform(1.3, 2.6), dice.uniform(0.6, 1.1)
    y = dice.uniform(2.6, 3.4)
    for x in (-w * 0.7, w * 0.7):
        builder.face(limb(x, 0, x, y + h, 0.11, 0.11), (128, 130, 132), label=POLE)
    builder.rect(-w, y - h, w, y + h, ink)
    builder.rect(-w + 0.07, y - h + 0.07, w - 0.07, y + h - 0.07, ground, size=0.2)
    rows = dice.integer(2, 3)
    for k in range(rows):
        row = y + h * (0.62 - 1.3 * k / rows)
        left = -w * dice.uniform(0.3, 0.8)
        builder.rect(
            left, row - h * 0.12, left + w * dice.uniform(0.7, 1.1), row + h * 0.12, ink, size=0.2
        )
    return builder.build()


def gantry_sign(dice: Dice, half: float) -> Shape:
    """Direction signs on a beam across a road that is `half` metres wide on either side."""
    builder = Builder(SIGN, SIGN)
    steel = dice.tint((128, 130, 132), 0.15)
    for x in (-half, half):
        builder.face(limb(x, 0, x, 7.0, 0.2, 0.18), steel, label=POLE)
    builder.rect(-half, 6.2, half, 6.6, [c * 0.85 for c in steel], label=POLE)
    for part, x in enumerate((-half * 0.5, half * 0.45)):
        w, h = dice.uniform(1.6, 2.3), dice.uniform(0.9, 1.2)
        color = dice.pick((BLUE, GREEN))
        builder.rect(x - w, 6.4 - h, x + w, 6.4 + h, WHITE, part=part)
        builder.rect(x - w + 0.08, 6.48 - h, x + w - 0.08, 6.32 + h, color, part=part)
        for row in (0.5, -0.2):
            builder.rect(
                x - w * 0.7,
                6.4 + h * row,
                x + w * dice.uniform(0, 0.6),
                6.4 + h * row + 0.3,
                WHITE,
                size=0.3,
                part=part,
            )
    return builder.build()
