"""Random choices that come out the same everywhere."""

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Dice:
    """Draws from one seed. Built on `Random.random()` alone, whose stream Python guarantees."""

    def __init__(self, *seed: int | str) -> None:
        self._random = random.Random("/".join(str(part) for part in seed)).random

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number in [low, high)."""
        return low + (high - low) * self._random()

    def bell(self, low: float, high: float) -> float:
        """A number in [low, high), more often near the middle (mean of three draws)."""
        total = self._random() + self._random() + self._random()
        return low + (high - low) * (total / 3.0)

    def integer(self, low: int, high: int) -> int:
        """A whole number in [low, high], both ends included."""
        return low + int(self._random() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self._random() < probability

    def sign(self) -> int:
        """-1 or 1."""
        return -1 if self._random() < 0.5 else 1

    def pick(self, items: Sequence[T]) -> T:
        """One of the items, all equally likely."""
        return items[int(self._random() * len(items))]

    def weighted(self, weights: Sequence[tuple[T, float]]) -> T:
        """One item of (item, weight) pairs."""
        left = self._random() * sum(weight for _, weight in weights)
        for item, weight in weights:
            left -= weight
            if left < 0:
                return item
        return weights[-1][0]

    def tint(self, color: Sequence[float], spread: float) -> tuple[float, float, float]:
        """A colour near the given one: brightness and each channel moved by up to `spread`."""
        gain = 1.0 + self.uniform(-spread, spread)
        r, g, b = (c * gain * (1.0 + self.uniform(-spread, spread) / 2) for c in color)
        return min(r, 255.0), min(g, 255.0), min(b, 255.0)
