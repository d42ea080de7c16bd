"""Where a point of the world falls on the picture.

Road coordinates: station s (metres along the road's middle line), offset u (metres to the right)
and height y. View coordinates: x to the right of the camera, y up from the road under it, z ahead.
Everything here is additions, products, quotients and square roots, which IEEE 754 fixes to the bit.
"""

from dataclasses import dataclass
from math import floor, sqrt

import numpy as np

NEAR = 0.6  # metres; nothing nearer is drawn
SHIFT = 4  # coordinates carry 4 bits below the pixel
UNIT = 1 << SHIFT


@dataclass(frozen=True)
class Road:
    """The middle line of a road, sampled every metre from station `first`.

    x, z: plan position; y: height; dx, dz: unit direction. All lists of equal length.
    """

    first: int
    x: list[float]
    z: list[float]
    y: list[float]
    dx: list[float]
    dz: list[float]

    def at(self, s: float, u: float = 0.0) -> tuple[float, float, float, float, float]:
        """Plan x, height, plan z of the point at (s, u), and the road's direction there."""
        k = min(max(s - self.first, 0.0), len(self.x) - 1.001)
        i = floor(k)
        f = k - i
        dx = self.dx[i] + f * (self.dx[i + 1] - self.dx[i])
        dz = self.dz[i] + f * (self.dz[i + 1] - self.dz[i])
        x = self.x[i] + f * (self.x[i + 1] - self.x[i]) + u * dz
        z = self.z[i] + f * (self.z[i + 1] - self.z[i]) - u * dx
        return x, self.y[i] + f * (self.y[i + 1] - self.y[i]), z, dx, dz


def lay_road(first: int, curvature: list[float], slope: list[float]) -> Road:
    """Integrate curvature (1/m) and slope (m/m), one value a metre, into a road."""
    x = z = y = dx = 0.0
    dz = 1.0
    table: list[tuple[float, float, float, float, float]] = []
    for bend, rise in zip(curvature, slope, strict=True):
        table.append((x, z, y, dx, dz))
        x, z, y = x + dx, z + dz, y + rise
        dx, dz = dx + bend * dz, dz - bend * dx
        length = sqrt(dx * dx + dz * dz)
        dx, dz = dx / length, dz / length
    columns = [list(column) for column in zip(*table, strict=True)]
    return Road(first, columns[0], columns[1], columns[2], columns[3], columns[4])


@dataclass(frozen=True)
class Lens:
    """What a clip's camera keeps for all of its frames, in parts of the picture's width."""

    focal: float  # focal length / width
    horizon: float  # row of the horizon / height
    middle: float  # column of straight ahead / width
    height: float  # metres above the road
    roll: float  # tangent of the roll angle


class View:
    """The camera at one moment: from road coordinates to 1/16 pixels."""

    def __init__(
        self, road: Road, lens: Lens, size: tuple[int, int], s: float, u: float, turn: float = 0.0
    ) -> None:
        """Stand at station s and offset u, `turn` (tangent) to the right of the road's way."""
        self.road, self.s, self.u = road, s, u
        self.height, self.width = size
        self.focal = lens.focal * self.width
        self.cx = lens.middle * self.width
        self.cy = lens.horizon * self.height
        self.roll = lens.roll
        self.eye = lens.height
        ex, ey, ez, dx, dz = road.at(s, u)
        ahead = road.at(s + 12.0, u)
        self.slope = (ahead[1] - ey) / 12.0
        self.ex, self.ey, self.ez = ex, ey + lens.height, ez
        dx, dz = dx + turn * dz, dz - turn * dx
        length = sqrt(dx * dx + dz * dz)
        self.dx, self.dz = dx / length, dz / length

    def place(self, s: float, u: float, y: float = 0.0) -> tuple[float, float, float, float, float]:
        """View coordinates (x, y, z) of a point of the road, and the road's direction seen there.

        The direction is (sine, cosine) of the angle between the road there and the camera's axis.
        """
        x, ground, z, dx, dz = self.road.at(s, u)
        x, z = x - self.ex, z - self.ez
        right = x * self.dz - z * self.dx
        far = x * self.dx + z * self.dz
        return (
            right,
            ground + y - self.ey - self.slope * far,
            far,
            dx * self.dz - dz * self.dx,
            dx * self.dx + dz * self.dz,
        )

    def screen(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Project view coordinates (z >= NEAR) to int32 points (..., 2) in 1/16 pixels."""
        scale = self.focal / z
        px = x * scale
        py = y * scale
        out = np.empty((*px.shape, 2), np.int32)
        out[..., 0] = np.rint((self.cx + px - self.roll * py) * UNIT)
        out[..., 1] = np.rint((self.cy - py - self.roll * px) * UNIT)
        return out

    def point(self, x: float, y: float, z: float) -> tuple[int, int]:
        """Project one point; whole pixels."""
        scale = self.focal / max(z, NEAR)
        px, py = x * scale, y * scale
        return floor(self.cx + px - self.roll * py), floor(self.cy - py - self.roll * px)
