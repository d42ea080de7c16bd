"""What the air, the weather and the sensor add to a painted frame."""

import cv2
import numpy as np

from kdlib.simulate.camera import View
from kdlib.simulate.classes import (
    BUILDING,
    FENCE,
    ROAD,
    SIDEWALK,
    SKY,
    TERRAIN,
    VEGETATION,
    WALL,
)
from kdlib.simulate.dice import Dice

SHEET = (1024, 2048)  # rows and columns of a noise sheet; on the ground it wraps around

# Grain by class: amplitude in 1/64 of a noise value of +-128, as (fine, coarse, on the ground).
GRAIN = {
    ROAD: (1, 0, 8), SIDEWALK: (1, 1, 13), TERRAIN: (5, 4, 22), BUILDING: (3, 3, 0),
    WALL: (5, 7, 0), FENCE: (5, 3, 0), VEGETATION: (14, 12, 0), SKY: (0, 0, 0),
}  # fmt: skip
OTHER = (2, 2, 0)
SHIFTED = 1 << 22  # keeps what is rounded towards zero positive; a multiple of the sheet's width


def _noise_sheet() -> tuple[np.ndarray, np.ndarray]:
    """Fine and coarse noise (1024, 2048) int16 about 0, the same in every process."""
    raw = np.random.Generator(np.random.PCG64(20)).integers(0, 256, (4, *SHEET), np.uint8)
    fine = (raw.astype(np.int16).sum(axis=0, dtype=np.int16) >> 1) - 255
    small = np.ascontiguousarray(raw[0, : SHEET[0] // 4, : SHEET[1] // 4])
    coarse = cv2.resize(small, SHEET[::-1], interpolation=cv2.INTER_LINEAR_EXACT)
    return fine.astype(np.int16), coarse.astype(np.int16) - 128


class Finish:
    """Grain, glow, rain or snow, exposure and sensor noise of one clip."""

    _sheets: tuple[np.ndarray, np.ndarray] | None = None

    def __init__(self, dice: Dice, time: str, weather: str, size: tuple[int, int]) -> None:
        self.size, self.time, self.weather = size, time, weather
        if Finish._sheets is None:
            Finish._sheets = _noise_sheet()
        dim = {"daytime": 64, "dawn/dusk": 48, "night": 24}[time]
        grain = np.full((3, 256), np.array(OTHER)[:, None], np.int16)
        for label, amplitudes in GRAIN.items():
            grain[:, label] = amplitudes
        self.grain = grain * dim >> 6
        self.sensor = dice.integer(1, 3) + 2 * (time == "night") + (time == "dawn/dusk")
        contrast, lift = dice.uniform(0.9, 1.16), dice.uniform(-8, 14)
        if weather == "foggy":
            contrast, lift = contrast * 0.9, lift + 8
        table = np.empty((256, 1, 3), np.uint8)
        for channel in range(3):
            tint = dice.uniform(0.96, 1.04)
            for value in range(256):
                out = (value - 118) * contrast * tint + 118 + lift * (time != "night")
                table[value, 0, channel] = int(min(max(out, 0.0), 255.0))
        self.table = table
        self.wet = weather == "rainy"
        self.falloff = self._falloff(dice, time == "night")
        self.drops = weather == "rainy" and dice.chance(0.6)

    def apply(
        self, image: np.ndarray, label: np.ndarray, view: View, dice: Dice, lamps: list
    ) -> np.ndarray:
        """Finish one reduced frame (H, W, 3); lamps are (x, y, radius, b, g, r) in its pixels."""
        fine, coarse, ground = (row[label] for row in self.grain)
        top, texture = self._ground(view)
        grain = self._cut(0, dice) * fine + self._cut(1, dice) * coarse
        grain[top:] += texture * ground[top:]
        grain += self._cut(0, dice) * self.sensor
        grain >>= 6
        work = (image * self.falloff >> 7).astype(np.int16) + grain[..., None]
        if lamps:
            work += self._glow(lamps)
        picture = np.clip(work, 0, 255).astype(np.uint8)
        if self.weather in ("rainy", "snowy"):
            self._fall(picture, dice)
        return cv2.LUT(picture, self.table)

    def _falloff(self, dice: Dice, night: bool) -> np.ndarray:
        """Factor in 1/128 per pixel (H, W, 1): darker corners, the headlights' cone at night."""
        height, width = self.size
        across = (np.arange(width) - width / 2) / (width / 2)
        down = (np.arange(height) - height / 2) / (height / 2)
        corner = (across * across)[None, :] + (down * down)[:, None]
        factor = 132.0 - dice.uniform(6, 24) * corner / 2
        if night:
            beam = dice.uniform(0.25, 0.6)
            spread = 0.3 + np.maximum(down - 0.1, 0.0)[:, None]
            x = across[None, :] / spread
            low = np.minimum(np.maximum(down - 0.02, 0.0) * 4, 1.0)[:, None]
            factor = factor * (1.0 + low * (1.2 * beam / (1.0 + x * x * x * x) - beam * 0.7))
        return np.rint(factor).astype(np.uint16)[..., None]

    def _cut(self, sheet: int, dice: Dice) -> np.ndarray:
        """A random piece of a noise sheet, as large as the picture."""
        height, width = self.size
        x, y = dice.integer(0, SHEET[1] - width), dice.integer(0, SHEET[0] - height)
        return Finish._sheets[sheet][y : y + height, x : x + width]

    def _ground(self, view: View) -> tuple[int, np.ndarray]:
        """First row, and noise lying on a flat ground under the camera, fading with distance.

        The noise stays where it is on the road while the camera moves on.
        """
        height, width = self.size
        scale = view.height / height
        focal, horizon, middle = view.focal / scale, view.cy / scale, view.cx / scale
        top = min(max(int(horizon) + 2, 0), height - 1)
        rows = np.arange(top, height) + 0.5 - horizon
        ahead = view.eye * focal / np.maximum(rows, 0.5)
        along = ((view.s + ahead) * 24.0).astype(np.int32) & (SHEET[0] - 1)
        across = (np.arange(width) - middle)[None, :] * (ahead * (40.0 / focal))[:, None]
        across = (across + view.u * 40.0 + SHIFTED).astype(np.int32) & (SHEET[1] - 1)
        near = Finish._sheets[0][along[:, None], across]
        far = Finish._sheets[1][along[:, None], across]
        fade = np.minimum(rows * (280.0 / focal), 64.0).astype(np.int16)[:, None]
        return top, (near * fade >> 7) + (far * fade >> 7) + (far * fade >> 8)

    def _glow(self, lamps: list) -> np.ndarray:
        """Light scattered around lamps."""
        height, width = self.size[0] // 2, self.size[1] // 2
        glow = np.zeros((height, width, 3), np.uint8)
        for x, y, radius, *bgr in lamps:
            for k in (8, 6, 5, 4, 3, 2, 1):
                r = max(int(radius * k / 16), 1)
                x0, y0, x1, y1 = x // 2 - r, y // 2 - r, x // 2 + r + 1, y // 2 + r + 1
                if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
                    continue
                cut = glow[max(y0, 0) : y1, max(x0, 0) : x1]
                disc = np.zeros_like(cut)
                center = (x // 2 - max(x0, 0), y // 2 - max(y0, 0))
                cv2.circle(disc, center, r, [int(c) // (8 + 3 * k) for c in bgr], -1)
                cv2.add(cut, disc, cut)
            if self.wet and radius > 3:
                color = [int(c) // 7 for c in bgr]
                streak = np.zeros_like(glow)
                axes = (max(radius // 12, 1), radius)
                cv2.ellipse(streak, (x // 2, y // 2 + radius), axes, 0, 0, 360, color, -1)
                cv2.add(glow, streak, glow)
        large = cv2.resize(glow, self.size[::-1], interpolation=cv2.INTER_LINEAR_EXACT)
        return large.astype(np.int16)

    def _fall(self, picture: np.ndarray, dice: Dice) -> None:
        """Rain streaks or snowflakes, mixed half into the picture."""
        height, width = self.size
        over = picture.copy()
        count = (70 if self.weather == "rainy" else 110) * width // 256
        value = {"daytime": 200, "dawn/dusk": 150, "night": 110}[self.time]
        for _ in range(count):
            x, y = dice.integer(0, width), dice.integer(0, height)
            if self.weather == "rainy":
                length = dice.integer(3, 9) * height // 144
                cv2.line(over, (x, y), (x + length // 5, y + length), (value,) * 3, 1)
            else:
                cv2.circle(
                    over, (x, y), dice.integer(0, height // 100), (min(value + 40, 250),) * 3, -1
                )
        if self.drops:
            for _ in range(10):
                x, y, r = (
                    dice.integer(0, width),
                    dice.integer(0, height),
                    dice.integer(2, height // 28),
                )
                x, y = min(x, width - 1), min(y, height - 1)
                source = picture[max(y - 2 * r, 0), x].tolist()
                cv2.circle(over, (x, y), r, source, -1)
        picture[:] = (picture >> 1) + (over >> 1)
