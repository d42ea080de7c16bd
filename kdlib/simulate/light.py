"""How colours look by day and night, near and far."""

from collections.abc import Sequence

import numpy as np

from kdlib.simulate.dice import Dice

Color = Sequence[float]  # red, green, blue unless said otherwise; 0..255

FAR = 256  # metres; light and haze are tabulated to here


class Light:
    """How a colour at a distance looks: colour * gain + haze."""

    def __init__(self, dice: Dice, time: str, weather: str, horizon: Color, lit: bool) -> None:
        """`horizon` (b, g, r) is what far things fade into; `lit` says whether lamps are on."""
        self.night = time == "night"
        self.lit = lit
        bright = {
            "clear": 1.06,
            "partly cloudy": 1.0,
            "overcast": 0.84,
            "rainy": 0.7,
            "foggy": 0.86,
            "snowy": 0.94,
        }[weather] * dice.uniform(0.9, 1.12)
        tint = {
            "daytime": (1.0, 1.0, 1.0),
            "dawn/dusk": (0.74, 0.68, 0.72),
            "night": (0.3, 0.25, 0.24),
        }[time]
        warm = dice.uniform(-0.08, 0.08)
        ambient = [tint[0] * bright * (1 - warm), tint[1] * bright, tint[2] * bright * (1 + warm)]
        if self.night:
            ambient = [c * dice.uniform(0.7, 1.3) for c in ambient]
        reach = {
            "clear": 420.0,
            "partly cloudy": 360.0,
            "overcast": 260.0,
            "rainy": 150.0,
            "foggy": dice.uniform(38.0, 80.0),
            "snowy": 110.0,
        }[weather]
        self.gains, self.hazes = [], []
        for z in range(FAR):
            share = z / (z + reach)
            share *= share if weather != "foggy" else 1.0
            beam = 0.62 / (1.0 + (z / 16.0) * (z / 16.0)) if self.night else 0.0
            gain = [(a + beam) * (1 - share) for a in ambient]
            self.gains.append(np.array(gain))
            self.hazes.append(np.array([c * share for c in horizon]))
        self.clear = [z / (z + reach * 3) for z in range(FAR)]
        self.horizon = np.array(horizon)

    def on(self, z: float) -> tuple[np.ndarray, np.ndarray]:
        """Gain and haze (b, g, r) at distance z."""
        k = min(max(int(z), 0), FAR - 1)
        return self.gains[k], self.hazes[k]

    def through(self, bgr: np.ndarray, z: float) -> np.ndarray:
        """The colour of something that shines, seen through the air."""
        share = self.clear[min(max(int(z), 0), FAR - 1)]
        return bgr * (1 - share) + self.horizon * share

    def color(self, rgb, z: float, label: int) -> list[int]:
        """The colour (b, g, r, class) of a face at distance z."""
        gain, haze = self.on(z)
        return [min(int(c * g + h), 255) for c, g, h in zip(rgb[::-1], gain, haze, strict=True)] + [
            label
        ]
