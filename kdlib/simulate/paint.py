"""Stop lines and arrows, and lane lines that are worn off."""

from dataclasses import replace

from kdlib.simulate.dice import Dice
from kdlib.simulate.ground import Ground, Mark
from kdlib.simulate.plan import Plan

Polygon = tuple[tuple[float, float], ...]  # (metres onwards, metres to the right)

LONG = 6.0  # metres of an arrow
SHAFT: Polygon = ((0.0, -0.1), (0.0, 0.1), (4.0, 0.1), (4.0, -0.1))
SHORT: Polygon = ((0.0, -0.1), (0.0, 0.1), (2.6, 0.1), (2.6, -0.1))
HEAD: Polygon = ((3.8, -0.36), (3.8, 0.36), (LONG, 0.0))
BRANCH: tuple[Polygon, ...] = (
    ((1.8, 0.1), (2.6, 0.1), (3.5, 0.55), (2.7, 0.55)),
    ((2.1, 0.5), (4.3, 0.5), (3.2, 1.05)),
)  # to the right


def _left(polygons: tuple[Polygon, ...]) -> tuple[Polygon, ...]:
    return tuple(tuple((s, -u) for s, u in polygon) for polygon in polygons)


SHAPES = {
    "through": (SHAFT, HEAD),
    "left": (SHORT, *_left(BRANCH)),
    "right": (SHORT, *BRANCH),
    "through left": (SHAFT, HEAD, *_left(BRANCH)),
    "through right": (SHAFT, HEAD, *BRANCH),
}


def worn_off(ground: Ground, dice: Dice) -> Ground:
    """The ground with lane lines that have nearly the asphalt's colour."""
    left = dice.uniform(0.0, 0.16)
    lines = tuple(
        replace(
            line,
            color=tuple(
                a + left * (c - a) for c, a in zip(line.color, ground.asphalt, strict=True)
            ),
        )
        for line in ground.lines
    )
    return replace(ground, lines=lines)


def road_marks(plan: Plan, ground: Ground, dice: Dice) -> tuple[Mark, ...]:
    """Stop lines before crosswalks and side streets, and the arrows that lead to them."""
    marks: list[Mark] = []
    across = sorted((0.0, plan.style.way * plan.lane * plan.ahead))
    line: Polygon = ((0.0, 0.0), (0.0, across[1] - across[0]))
    line += tuple((0.4, u) for _, u in reversed(line))
    taken = -LONG
    stops = [s - 1.6 for s in ground.zebras]
    stops += [s - 2.0 for s, _ in plan.crossings if s - 4.4 not in ground.zebras]
    for stop in sorted(stops):
        if dice.chance(0.8) and plan.free(stop, stop + 0.4):
            marks.append(Mark("stop line", stop, across[0], (line,)))
        lanes = turns(plan, dice)
        for start in (stop - 34.0 - LONG, stop - 7.0 - LONG):
            if start > taken + 2 * LONG and dice.chance(0.75):
                marks += arrows(plan, start, lanes, ground.zebras)
                taken = start
    if not stops:
        s = dice.uniform(10, 40)
        while s < plan.end:
            marks += arrows(plan, s, ["through"] * plan.ahead, ())
            s += dice.uniform(40, 80)
    return tuple(marks)


def turns(plan: Plan, dice: Dice) -> list[str]:
    """Where each lane may go at the next crossing, from the middle of the road outwards."""
    inner, outer = ("left", "right") if plan.style.way > 0 else ("right", "left")
    kinds = ["through"] * plan.ahead
    kinds[-1] = dice.pick(("through", f"through {outer}", outer))
    if plan.ahead > 1:
        kinds[0] = dice.pick(("through", f"through {inner}", inner, inner))
    return kinds


def arrows(plan: Plan, s: float, lanes: list[str], zebras: tuple[float, ...]) -> list[Mark]:
    """One arrow in each lane, from station s, unless a side street or a crosswalk is there."""
    end = s + LONG + 1.0
    if not plan.free(s - 1.0, end) or any(s - 4.0 < zebra < end for zebra in zebras):
        return []
    return [
        Mark(kind, s, plan.style.way * plan.lane * (k + 0.5), SHAPES[kind])
        for k, kind in enumerate(lanes)
    ]
