"""People, riders and two-wheelers: upright cut-outs that face the camera."""

from kdlib.simulate.classes import BICYCLE, MOTORCYCLE, PERSON, RIDER
from kdlib.simulate.dice import Dice
from kdlib.simulate.shape import Builder, Color, Shape, limb

SKINS = ((240, 205, 178), (224, 180, 148), (190, 138, 100), (140, 94, 62), (92, 60, 42))
HAIRS = ((28, 22, 20), (62, 42, 30), (110, 76, 44), (190, 156, 96), (150, 148, 146), (120, 44, 30))
CLOTHES = (
    (36, 38, 44), (70, 74, 82), (140, 144, 150), (226, 224, 218), (170, 38, 40), (214, 84, 50),
    (40, 74, 130), (90, 140, 190), (40, 96, 66), (120, 140, 70), (206, 176, 70), (110, 60, 110),
    (186, 110, 140), (120, 90, 66), (190, 168, 136),
)  # fmt: skip
TROUSERS = ((30, 36, 56), (52, 66, 96), (28, 28, 30), (90, 84, 76), (150, 134, 108), (70, 40, 40))
FRAMES = (
    (30, 30, 32),
    (170, 36, 36),
    (36, 80, 150),
    (210, 210, 208),
    (60, 120, 70),
    (220, 150, 40),
)


def head(builder: Builder, dice: Dice, x: float, y: float, helmet: bool, part: int = 0) -> None:
    """A head of 0.24 m, seen from the front or the back, with hair, a hat or a helmet."""
    skin, hair = dice.pick(SKINS), dice.pick(HAIRS)
    builder.disc(x, y, 0.1, 0.13, dice.tint(hair, 0.2), part=part)
    if dice.chance(0.6):
        face = [
            (x - 0.085, y - 0.02),
            (x - 0.06, y + 0.05),
            (x + 0.06, y + 0.05),
            (x + 0.085, y - 0.02),
            (x + 0.05, y - 0.13),
            (x - 0.05, y - 0.13),
        ]
        builder.face(face, skin, size=0.12, part=part)
    if helmet or dice.chance(0.15):
        cap = [
            (x - 0.13, y),
            (x - 0.1, y + 0.13),
            (x, y + 0.17),
            (x + 0.1, y + 0.13),
            (x + 0.13, y),
        ]
        builder.face(cap, dice.pick(FRAMES + CLOTHES), part=part)


def person(dice: Dice) -> Shape:
    """Someone standing or walking; 1.1 to 1.95 m tall."""
    builder = Builder(PERSON)
    k = dice.bell(1.5, 1.95) / 1.75 if dice.chance(0.9) else dice.uniform(1.0, 1.4) / 1.75
    top, legs = dice.tint(dice.pick(CLOTHES), 0.2), dice.tint(dice.pick(TROUSERS), 0.2)
    stride, stout = dice.uniform(0.02, 0.26), dice.uniform(0.9, 1.3)
    dress = dice.chance(0.2)
    shoes = dice.pick(((24, 22, 22), (90, 62, 40), (220, 220, 216)))
    for side, gain in ((-1, 0.8), (1, 1.0)):
        foot = side * stride + 0.03 * side
        builder.face(
            limb(foot * k, 0.06, side * 0.08 * stout * k, 0.9 * k, 0.065 * k, 0.1 * k),
            [c * gain for c in legs],
        )
        builder.face(
            [
                ((foot - 0.07) * k, 0),
                ((foot + 0.12 * side + 0.07) * k, 0),
                ((foot + 0.07) * k, 0.1 * k),
                ((foot - 0.07) * k, 0.1 * k),
            ],
            shoes,
            size=0.1,
        )
    arm = dice.uniform(0.0, 0.16)
    builder.face(
        limb(-(0.24 + arm) * k, 0.78 * k, -0.2 * stout * k, 1.42 * k, 0.05 * k, 0.06 * k),
        [c * 0.78 for c in top],
    )
    builder.face(
        limb((0.24 + arm) * k, 0.78 * k, 0.2 * stout * k, 1.42 * k, 0.05 * k, 0.06 * k),
        [c * 0.88 for c in top],
    )
    hem = dice.uniform(0.45, 0.7) if dress else dice.uniform(0.74, 0.9)
    flare = 0.26 if dress else 0.19
    body = [
        (-flare * stout, hem),
        (flare * stout, hem),
        (0.17 * stout, 1.05),
        (0.22 * stout, 1.45),
        (0.08, 1.52),
        (-0.08, 1.52),
        (-0.22 * stout, 1.45),
        (-0.17 * stout, 1.05),
    ]
    builder.face([(x * k, y * k) for x, y in body], top)
    shadow = [
        (0.04, hem),
        (flare * stout, hem),
        (0.17 * stout, 1.05),
        (0.22 * stout, 1.45),
        (0.1, 1.45),
    ]
    builder.face([(x * k, y * k) for x, y in shadow], [c * 0.85 for c in top], size=0.2)
    if dice.chance(0.4):
        x = dice.pick((-0.36, 0.3, -0.1))
        y = dice.pick((0.45, 1.0))
        builder.rect(x * k, y * k, (x + 0.26) * k, (y + 0.38) * k, dice.pick(CLOTHES), size=0.2)
    builder.face(limb(0, 1.45 * k, 0, 1.55 * k, 0.05 * k, 0.05 * k), dice.pick(SKINS), size=0.1)
    head(builder, dice, 0.0, 1.63 * k, False)
    return builder.build()


def wheel(builder: Builder, x: float, r: float, thick: float, part: int, fill: Color) -> None:
    """A wheel seen from the side, its inside labelled as the vehicle."""
    builder.disc(x, r, r, r, (26, 26, 28), part=part)
    builder.disc(x, r, r * thick, r * thick, fill, part=part)
    builder.disc(x, r, r * 0.14, r * 0.14, (60, 60, 62), size=0.1, part=part)


def bicycle_side(builder: Builder, dice: Dice, part: int) -> None:
    """A bicycle of 1.75 m from the side."""
    frame = dice.tint(dice.pick(FRAMES), 0.2)
    ground = dice.tint((118, 116, 114), 0.2)
    for x in (-0.54, 0.54):
        wheel(builder, x, 0.35, 0.84, part, ground)
    bars = [
        limb(-0.54, 0.35, -0.18, 0.8, 0.03, 0.03),
        limb(-0.06, 0.3, -0.2, 0.92, 0.03, 0.03),
        limb(-0.06, 0.3, 0.4, 0.86, 0.03, 0.03),
        limb(0.54, 0.35, 0.38, 1.02, 0.03, 0.03),
    ]
    for bar in bars:
        builder.face(bar, frame, part=part)
    builder.face([(-0.54, 0.33), (-0.06, 0.27), (-0.06, 0.33), (-0.54, 0.39)], frame, part=part)
    builder.face([(-0.2, 0.76), (0.4, 0.8), (0.4, 0.87), (-0.2, 0.83)], frame, part=part)
    builder.face(
        [(-0.34, 0.92), (-0.08, 0.92), (-0.1, 0.99), (-0.34, 1.0)], (24, 24, 24), part=part
    )
    builder.face([(0.3, 1.0), (0.52, 1.04), (0.52, 1.1), (0.3, 1.06)], (24, 24, 24), part=part)
    if dice.chance(0.3):
        builder.rect(0.42, 0.72, 0.78, 1.0, (120, 92, 60), part=part)


def motorcycle_side(builder: Builder, dice: Dice, part: int) -> None:
    """A motorcycle or scooter of 2 m from the side."""
    paint = dice.tint(dice.pick(FRAMES + CLOTHES), 0.2)
    dark = (34, 34, 38)
    for x in (-0.66, 0.68):
        wheel(builder, x, 0.32, 0.55, part, (96, 98, 102))
    builder.face([(-0.6, 0.3), (0.5, 0.26), (0.4, 0.62), (-0.5, 0.62)], dark, part=part)
    builder.face(
        [
            (-0.9, 0.62),
            (-0.3, 0.5),
            (0.2, 0.56),
            (0.62, 0.5),
            (0.52, 0.86),
            (0.1, 0.9),
            (-0.1, 0.74),
            (-0.8, 0.82),
        ],
        paint,
        part=part,
    )
    builder.face([(-0.78, 0.8), (-0.1, 0.74), (-0.12, 0.84), (-0.76, 0.9)], dark, part=part)
    builder.face(limb(0.68, 0.32, 0.44, 1.04, 0.05, 0.05), (120, 122, 126), part=part)
    builder.face([(0.3, 1.0), (0.6, 0.98), (0.66, 1.12), (0.34, 1.1)], dark, part=part)
    builder.face([(0.48, 0.76), (0.68, 0.78), (0.64, 0.98), (0.5, 0.98)], paint, part=part)
    builder.face([(-0.9, 0.3), (-0.2, 0.26), (-0.2, 0.34), (-0.9, 0.4)], (150, 150, 154), part=part)


def two_wheeler_end(builder: Builder, dice: Dice, motor: bool, part: int, lit: bool) -> None:
    """A bicycle or motorcycle from behind or in front."""
    w = 0.2 if motor else 0.08
    high = 0.66 if motor else 0.72
    builder.face(limb(0, 0, 0, high, w * 0.6, w * 0.6), (28, 28, 30), part=part)
    if motor:
        paint = dice.tint(dice.pick(FRAMES), 0.2)
        builder.face([(-0.22, 0.5), (0.22, 0.5), (0.2, 0.92), (-0.2, 0.92)], paint, part=part)
        builder.face(
            [(-0.3, 0.3), (0.3, 0.3), (0.28, 0.55), (-0.28, 0.55)], (44, 44, 48), part=part
        )
        builder.face([(-0.4, 1.0), (0.4, 1.0), (0.4, 1.07), (-0.4, 1.07)], (30, 30, 32), part=part)
        builder.rect(-0.1, 0.66, 0.1, 0.78, (220, 40, 34), part=part, size=0.1, shines=lit)
    else:
        builder.face([(-0.14, 0.3), (0.14, 0.3), (0.1, 0.6), (-0.1, 0.6)], (50, 50, 54), part=part)
        builder.face(
            [(-0.3, 0.98), (0.3, 0.98), (0.3, 1.04), (-0.3, 1.04)], (30, 30, 32), part=part
        )
        builder.rect(-0.13, 0.84, 0.13, 0.92, (26, 26, 26), part=part)
        builder.rect(-0.05, 0.6, 0.05, 0.68, (220, 40, 34), part=part, size=0.08, shines=lit)


def rider(dice: Dice, motor: bool, side: bool, lit: bool) -> Shape:
    """Someone riding; part 0 is the rider, part 1 the bicycle or motorcycle."""
    builder = Builder(RIDER, MOTORCYCLE if motor else BICYCLE)
    top, legs = dice.tint(dice.pick(CLOTHES), 0.2), dice.tint(dice.pick(TROUSERS), 0.2)
    dark = [c * 0.8 for c in top]
    helmet = motor or dice.chance(0.6)
    if side:
        (motorcycle_side if motor else bicycle_side)(builder, dice, 1)
        hip, lean = (-0.3, 0.9), (0.05 if motor else 0.12)
        knee = (0.12, 0.74 if motor else dice.uniform(0.62, 0.8))
        foot = (-0.02, 0.3 if motor else dice.uniform(0.2, 0.34))
        builder.face(limb(*foot, *knee, 0.06, 0.08), [c * 0.85 for c in legs])
        builder.face(
            [
                (hip[0], 0.86),
                (knee[0] + 0.06, knee[1] - 0.04),
                (knee[0] + 0.02, knee[1] + 0.12),
                (hip[0], 1.06),
            ],
            legs,
        )
        builder.face(
            [
                (hip[0] - 0.14, 0.9),
                (hip[0] + 0.16, 0.9),
                (lean + 0.12, 1.42),
                (lean - 0.1, 1.52),
                (hip[0] - 0.06, 1.34),
            ],
            top,
        )
        builder.face([(lean - 0.02, 1.34), (lean + 0.1, 1.4), (0.46, 1.12), (0.4, 1.02)], dark)
        head(builder, dice, lean + 0.1, 1.63, helmet)
    else:
        two_wheeler_end(builder, dice, motor, 1, lit)
        for s in (-1, 1):
            builder.face(
                limb(s * 0.17, 0.3 + 0.1 * s * (not motor), s * 0.14, 0.98, 0.07, 0.1), legs
            )
            builder.face(limb(s * 0.34, 1.02, s * 0.22, 1.42, 0.06, 0.07), dark)
        builder.face(
            [(-0.2, 0.9), (0.2, 0.9), (0.25, 1.42), (0.1, 1.54), (-0.1, 1.54), (-0.25, 1.42)], top
        )
        if dice.chance(0.3):
            builder.rect(-0.16, 1.05, 0.16, 1.45, dice.pick(CLOTHES), size=0.2)
        head(builder, dice, 0.0, 1.66, helmet)
    return builder.build()


def parked(dice: Dice, motor: bool) -> Shape:
    """A bicycle or motorcycle with nobody on it, from the side or, more rarely, from its end."""
    builder = Builder(MOTORCYCLE if motor else BICYCLE)
    if dice.chance(0.75):
        (motorcycle_side if motor else bicycle_side)(builder, dice, 0)
    else:
        two_wheeler_end(builder, dice, motor, 0, False)
    return builder.build()
