"""The sky of a clip and the far silhouettes on the horizon, painted once and cut out per frame."""

import cv2
import numpy as np

from kdlib.simulate.camera import View
from kdlib.simulate.classes import BUILDING, SKY, VEGETATION
from kdlib.simulate.dice import Dice
from kdlib.simulate.shape import Color

# Zenith and horizon colours, by time of day and whether the sky is covered.
SKIES = {
    ("daytime", False): (((70, 126, 200), (182, 208, 232)), ((96, 150, 214), (214, 224, 232)),
                         ((52, 100, 178), (160, 192, 224))),
    ("daytime", True): (((168, 174, 182), (206, 208, 210)), ((140, 148, 158), (190, 192, 196)),
                        ((196, 200, 204), (222, 222, 222))),
    ("dawn/dusk", False): (((60, 74, 128), (244, 160, 96)), ((86, 92, 140), (236, 186, 150)),
                           ((44, 56, 104), (214, 110, 84))),
    ("dawn/dusk", True): (((104, 106, 122), (176, 156, 150)), ((84, 90, 110), (150, 140, 144))),
    ("night", False): (((8, 10, 22), (34, 32, 44)), ((14, 16, 30), (60, 48, 44))),
    ("night", True): (((22, 22, 28), (62, 54, 48)), ((16, 18, 24), (44, 42, 44))),
}  # fmt: skip
PAN = 2  # the painted sky is this many pictures wide


def noise_octaves(dice: Dice, size: tuple[int, int]) -> np.ndarray:
    """Smooth noise 0..255 of the given (height, width), in whole numbers throughout."""
    total = np.zeros(size, np.uint16)
    generator = np.random.Generator(np.random.PCG64(dice.integer(0, 2**31)))
    for cells, weight in ((3, 4), (6, 2), (14, 1), (28, 1)):
        grid = generator.integers(0, 256, (cells, cells * 3), np.uint8)
        smooth = cv2.resize(grid, size[::-1], interpolation=cv2.INTER_LINEAR_EXACT)
        total += smooth.astype(np.uint16) * weight
    return (total >> 3).astype(np.uint8)


COVERED = ("overcast", "rainy", "foggy", "snowy")


def sky_colors(dice: Dice, time: str, weather: str) -> tuple[Color, Color]:
    """Colours (r, g, b) of the zenith and of the horizon; far things fade into the latter."""
    zenith, horizon = dice.pick(SKIES[time, weather in COVERED])
    return dice.tint(zenith, 0.08), dice.tint(horizon, 0.08)


def paint_sky(
    dice: Dice, size: tuple[int, int], time: str, weather: str, lens, colors: tuple[Color, Color]
) -> np.ndarray:
    """A sky (height, PAN * width, 3) in blue, green, red."""
    height, width = size[0], size[1] * PAN
    covered = weather in COVERED
    zenith, horizon = colors
    line = max(int(lens.horizon * height), 1)
    sky = np.empty((height, width, 3), np.uint8)
    for row in range(height):
        t = min(row / line, 1.0)
        t = t * t * (1.5 - 0.5 * t)
        sky[row] = [int(a + t * (b - a)) for a, b in zip(zenith[::-1], horizon[::-1], strict=True)]
    if weather != "foggy" and not (weather == "clear" and dice.chance(0.5)):
        small = noise_octaves(dice, (height // 4, width // 4))
        level = {"clear": 168, "partly cloudy": 132}.get(weather, 104)
        cloud = np.clip((small.astype(np.int16) - level) * 5, 0, 220).astype(np.uint8)
        cloud = cv2.resize(cloud, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
        light = {"daytime": (250, 250, 250), "dawn/dusk": (196, 176, 226), "night": (58, 50, 48)}[
            time
        ]
        if covered:
            gain = dice.uniform(0.72, 0.95)
            light = tuple(int(c * gain) for c in horizon[::-1])
        mix = cloud.astype(np.uint16)[..., None]
        sky[:] = (sky * (256 - mix) + np.array(light, np.uint16) * mix) >> 8
    if time != "night" and not covered and dice.chance(0.4):
        x, y = dice.integer(0, width - 1), dice.integer(0, line)
        glow = np.zeros((height // 4, width // 4, 3), np.uint8)
        for k in range(40):
            level = k * k / 10 + k
            color = [int(level * c) for c in (0.55, 0.8, 1.0)]
            cv2.circle(glow, (x // 4, y // 4), (40 - k) * height // 300, color, -1)
        glow = cv2.resize(glow, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
        sky = cv2.add(sky, glow)
        cv2.circle(sky, (x, y), height // 40, (236, 246, 255), -1)
    elif time == "night" and not covered:
        for _ in range(dice.integer(10, 60)):
            cv2.circle(sky, (dice.integer(0, width), dice.integer(0, line)), 1, (150, 150, 150), -1)
    return sky


class Backdrop:
    """Sky, far hills, woods and roofs of one clip."""

    def __init__(
        self,
        dice: Dice,
        size: tuple[int, int],
        time: str,
        weather: str,
        scene: str,
        lens,
        light,
        greens,
        colors,
    ) -> None:
        painted = paint_sky(dice, size, time, weather, lens, colors)
        self.sky = np.full((*painted.shape[:2], 4), SKY, np.uint8)
        self.sky[..., :3] = painted
        self.lens = lens
        width = self.sky.shape[1]
        height = size[0]
        self.base = int(lens.horizon * height)
        self.layers: list[tuple[np.ndarray, list[int]]] = []
        kinds = ["hills", "wood"] if scene != "city street" else ["roofs", "roofs", "wood"]
        if scene == "residential":
            kinds = ["hills", "wood", "roofs"]
        for depth, kind in enumerate(kinds):
            if dice.chance(0.25):
                continue
            far = 170.0 - 40.0 * depth
            if kind == "roofs":
                points, x = [], 0.0
                while x < width:
                    w = dice.uniform(0.02, 0.08) * size[1]
                    h = dice.uniform(0.02, 0.13) * height
                    points += [(x, h), (x + w, h)]
                    x += w
                color, label = dice.tint((128, 122, 120), 0.25), BUILDING
            else:
                step = size[1] * (0.05 if kind == "hills" else 0.012)
                h = height * dice.uniform(0.03, 0.08)
                points = []
                for k in range(int(width / step) + 2):
                    h = min(max(h + dice.uniform(-0.1, 0.1) * h, height * 0.02), height * 0.13)
                    points.append((k * step, h * dice.uniform(0.85, 1.15)))
                color, label = dice.tint(dice.pick(greens), 0.15), VEGETATION
            gain, haze = light.on(far)
            bgr = [
                min(int(c * g + a), 255) for c, g, a in zip(color[::-1], gain, haze, strict=True)
            ]
            outline = [(0.0, -height / 12.0), *points, (width, -height / 12.0)]
            self.layers.append((np.rint(np.array(outline) * 16).astype(np.int32), [*bgr, label]))

    def paint(self, canvas, view: View) -> None:
        """Fill the canvas with the part of the backdrop that the camera looks at."""
        width = view.width
        # The pan follows the heading: dx is the sine of the angle turned since the clip began.
        pan = int(view.dx * view.focal + (PAN - 1) * width / 2)
        pan = min(max(pan, 0), (PAN - 1) * width)
        canvas.pixels[:] = self.sky[:, pan : pan + width]
        lift = int(-view.slope * view.focal * 0.5)
        for outline, color in self.layers:
            points = outline.copy()
            points[:, 0] -= pan * 16
            points[:, 1] = (self.base - lift) * 16 - points[:, 1]
            cv2.fillPoly(canvas.pixels, [points], color, shift=4)
