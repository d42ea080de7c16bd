"""What all vehicles are made of: bodies drawn out from a profile, wheels, lamps, paints."""

from itertools import pairwise

from kdlib.simulate.shape import DISC, Builder, Color

GLASS = (38, 48, 58)
TYRE = (22, 22, 24)
CAR_PAINTS = (
    (225, 226, 228), (200, 203, 208), (150, 154, 160), (90, 94, 100), (32, 33, 37), (20, 21, 24),
    (150, 24, 28), (190, 40, 34), (26, 52, 110), (40, 90, 160), (110, 150, 190), (24, 70, 52),
    (96, 110, 80), (176, 160, 130), (110, 72, 48), (206, 120, 36), (222, 186, 48),
)  # fmt: skip
BUS_PAINTS = (
    (196, 32, 36), (222, 176, 40), (236, 236, 232), (36, 96, 170), (44, 130, 84), (226, 116, 30),
    (120, 40, 110), (60, 160, 190),
)  # fmt: skip


def extrude(
    builder: Builder,
    profile: list,
    half: float,
    length: float,
    height: float,
    paint: Color,
    glass: tuple[int, ...],
    side_gain: float = 0.86,
) -> None:
    """Draw a profile (z, y, width share) out to `half` metres on both sides."""
    points = [(z * length, y * height, half * w) for z, y, w in profile]
    for k, ((z0, y0, w0), (z1, y1, w1)) in enumerate(pairwise(points)):
        flat = abs(z1 - z0) / (abs(z1 - z0) + abs(y1 - y0) + 1e-9)
        gain = 0.72 + 0.4 * flat
        color = GLASS if k in glass else tuple(c * gain for c in paint)
        builder.face([(-w0, y0, z0), (w0, y0, z0), (w1, y1, z1), (-w1, y1, z1)], color, culled=True)
    side = tuple(c * side_gain for c in paint)
    builder.face([(-w, y, z) for z, y, w in points], side, culled=True)
    builder.face([(w, y, z) for z, y, w in reversed(points)], side, culled=True)


def side_panels(builder: Builder, half: float, panels: list, color: Color, **more) -> None:
    """Put flat panels, given as (z, y) polygons from rear to front, on both sides."""
    builder.faces([[(-half, y, z) for z, y in p] for p in panels], color, culled=True, **more)
    mirrored = [[(half, y, z) for z, y in reversed(p)] for p in panels]
    builder.faces(mirrored, color, culled=True, **more)


def wheels(builder: Builder, half: float, radius: float, places: list[float], rim: Color) -> None:
    """Put wheels at the given places along both sides."""
    for scale, color in ((1.0, TYRE), (0.6, rim)):
        discs = [
            [(z + radius * scale * a, radius * (1 + scale * b)) for a, b in DISC] for z in places
        ]
        side_panels(builder, half, discs, color, size=radius)


def lamps(
    builder: Builder,
    half: float,
    length: float,
    low: float,
    high: float,
    width: float,
    lit: bool,
    braking: bool,
) -> None:
    """Rear lights, headlights and number plates on the two ends."""
    back, front = -length / 2 - 0.02, length / 2 + 0.02
    red = (255, 40, 30) if braking else (190, 24, 22) if lit else (128, 18, 18)
    white = (255, 252, 225) if lit else (205, 208, 210)
    for z, color, order in ((back, red, 1), (front, white, -1)):
        quads = []
        for a, b in ((-half, -half + width), (half - width, half)):
            quad = [(a, low, z), (b, low, z), (b, high, z), (a, high, z)]
            quads.append(quad[::order])
        builder.faces(quads, color, culled=True, size=width, shines=lit or braking)
        for x in (width / 2 - half, half - width / 2) if lit else ():
            builder.lamp(x, (low + high) / 2, z, 0.45 if order > 0 else 1.0, color)
        plate = [
            (-0.26, low - 0.16, z),
            (0.26, low - 0.16, z),
            (0.26, low - 0.03, z),
            (-0.26, low - 0.03, z),
        ]
        builder.face(plate[::order], (228, 226, 205), culled=True, size=0.3)


def box(
    builder: Builder, half: float, low: float, high: float, rear: float, front: float, paint: Color
) -> None:
    """A plain box from z = rear to z = front."""
    profile = [(rear, low, 1), (rear, high, 1), (front, high, 1), (front, low, 1)]
    extrude(builder, profile, half, 1.0, 1.0, paint, ())
