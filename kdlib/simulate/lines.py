"""Lane lines of a frame: where they run on the picture, and their strokes in the world."""

from dataclasses import dataclass

from kdlib.simulate.camera import NEAR
from kdlib.simulate.ground import GroundPainter, Line

PIECES = 12  # parts of a stroke that are looked at to find how much of it is on the picture

Place = tuple[float, float, float]  # metres to the right of, above and ahead of the camera


@dataclass(frozen=True)
class Lane:
    """A lane line on the picture, from far to near, and its place to the camera (metres)."""

    category: str
    dashed: bool
    points: tuple[tuple[float, float], ...]
    offset: float
    near: float = 0.0  # metres ahead at which it begins


def visible_lines(painter: GroundPainter, over: int) -> list[Lane]:
    """Visible lane lines of a picture that is painted `over` times larger."""
    view, out = painter.view, []
    for line in painter.ground.lines:
        points, near = [], 0.0
        for k in range(len(painter.stations) - 1, -1, -1):
            s, u = painter.stations[k], line.offset
            if s - view.s > 90 or painter.blocked(s):
                continue
            x, y, z, _, _ = view.place(s, u)
            if z < NEAR:
                continue
            column, row = view.point(x, y, z)
            if row <= painter.last_row(s):
                points.append((column / over, row / over))
                near = z
        if len(points) >= 2:
            out.append(Lane(line.category, line.dashed, tuple(points), line.offset - view.u, near))
    return out


def strokes(painter: GroundPainter, line: Line, size: tuple[int, int]) -> list[tuple[Place, Place]]:
    """The strokes of a line, or the parts of a solid one, as far as they are on the picture.

    `size` is the (height, width) that count of what is painted. Each stroke is its near and its far
    end. What something hides that stands on the road is there all the same; what lies behind a
    crest is not.
    """
    view, out = painter.view, []
    height, width = size
    for low, high in painter.spans(line):
        seen = []
        for k in range(PIECES + 1):
            s = low + (high - low) * k / PIECES
            x, y, z, _, _ = view.place(s, line.offset)
            if z < NEAR:
                continue
            column, row = view.point(x, y, z)
            if 0 <= column < width and 0 <= row < min(painter.last_row(s) + 1, height):
                seen.append((x, y, z))
        if len(seen) > 1:
            out.append((seen[0], seen[-1]))
    return out
