"""What lines the street: buildings, gardens, walls, fences, hedges, parks."""

from kdlib.simulate import buildings, nature
from kdlib.simulate.plan import VIEW, Plan


def frontage(plan: Plan, side: int) -> None:
    """Buildings, walls, fences, hedges and open ground, one after the other."""
    dice = plan.dice
    s, line = dice.uniform(-14, -4), plan.front[side > 0] + side * 0.2
    choices = {
        "city street": (
            ("block", 6.0),
            ("wall", 1.4),
            ("fence", 1.4),
            ("park", 1.2),
            ("open", 0.5),
        ),
        "residential": (
            ("yard", 6.0),
            ("block", 1.0),
            ("park", 1.4),
            ("wall", 0.7),
            ("fence", 0.8),
        ),
        "highway": (
            ("park", 2.4),
            ("wall", 2.0),
            ("fence", 2.2),
            ("open", 2.0),
            ("hedge", 0.8),
            ("block", 0.8),
        ),
    }[plan.scene]
    while s < plan.end:
        kind = dice.weighted(choices)
        length = dice.uniform(9, 26) if kind in ("block", "yard") else dice.uniform(10, 36)
        for a, b in plan.crossings:
            if s < b + 1.5 and s + length > a - 1.5:
                if a - 1.5 - s > 6:
                    length = a - 1.5 - s
                else:
                    s = b + 1.5
        KINDS[kind](plan, side, s, length, line)
        s += length + (dice.uniform(1, 6) if kind == "yard" or dice.chance(0.15) else 0.0)


def block(plan: Plan, side: int, s: float, length: float, line: float) -> None:
    """A building right at the frontage."""
    dice, style = plan.dice, plan.style
    kind = dice.weighted(style.buildings) if not plan.highway else dice.pick(("shed", "office"))
    high = dice.bell(*style.floors) if kind in ("flats", "office", "shops") else dice.uniform(4, 8)
    back = dice.uniform(0, 2) * dice.chance(0.3) + 10 * plan.highway
    paint = dice.tint(dice.pick(style.facades), 0.16)
    shape = buildings.block(dice, side, length, dice.uniform(9, 15), high, paint, kind, plan.night)
    plan.add(shape, s, line + side * back, y=0.1, deep=length, reach=VIEW)


def yard(plan: Plan, side: int, s: float, length: float, line: float) -> None:
    """A house behind its garden."""
    dice = plan.dice
    back = dice.uniform(2.5, 7.0)
    high = dice.uniform(3.0, 6.5)
    paint = dice.tint(dice.pick(plan.style.facades), 0.18)
    wide = max(length - dice.uniform(0, 4), 6.0)
    shape = buildings.block(dice, side, wide, dice.uniform(7, 11), high, paint, "house", plan.night)
    plan.add(shape, s, line + side * back, y=0.1, deep=length, reach=VIEW)
    edge = dice.weighted((("hedge", 1.6), ("fence", 3.0), ("wall", 2.4), ("none", 1.2)))
    if edge != "none":
        plan.run(edge, side, s, length, line, low=True)
    for _ in range(dice.integer(0, 3)):
        at = s + dice.uniform(0, length)
        if dice.chance(0.4):
            plan.tree(at, line + side * dice.uniform(1.0, 3))
        else:
            plan.add(
                nature.shrub(dice, plan.style.greens),
                at,
                line + side * dice.uniform(0.5, 3),
                y=0.1,
                yaw=None,
            )


def wall(plan: Plan, side: int, s: float, length: float, line: float) -> None:
    """A wall with something behind it."""
    plan.run("wall", side, s, length, line)
    behind(plan, side, s, length, line)


def fence(plan: Plan, side: int, s: float, length: float, line: float) -> None:
    """A fence with something behind it."""
    plan.run("fence", side, s, length, line)
    behind(plan, side, s, length, line)


def hedge(plan: Plan, side: int, s: float, length: float, line: float) -> None:
    """A hedge with something behind it."""
    plan.run("hedge", side, s, length, line)
    behind(plan, side, s, length, line)


def open_ground(plan: Plan, side: int, s: float, length: float, line: float) -> None:
    """Open ground."""
    if plan.dice.chance(0.5):
        behind(plan, side, s, length, line + side * 8)


def park(plan: Plan, side: int, s: float, length: float, line: float) -> None:
    """Trees and shrubs."""
    dice = plan.dice
    for _ in range(max(int(length / 3.2), 2)):
        plan.tree(s + dice.uniform(0, length), line + side * dice.uniform(1, 12))
    for _ in range(int(length / 5)):
        plan.add(
            nature.shrub(dice, plan.style.greens),
            s + dice.uniform(0, length),
            line + side * dice.uniform(0.5, 6),
            y=0.1,
            yaw=None,
        )
    if dice.chance(0.3):
        plan.run(dice.pick(("fence", "hedge")), side, s, length, line, low=True)


def behind(plan: Plan, side: int, s: float, length: float, line: float) -> None:
    """What can be seen over a wall or a fence."""
    if plan.dice.chance(0.5):
        for _ in range(max(int(length / 5), 1)):
            plan.tree(s + plan.dice.uniform(0, length), line + side * plan.dice.uniform(2, 9))
    elif plan.dice.chance(0.7):
        block(plan, side, s, length, line + side * plan.dice.uniform(4, 10))


KINDS = {
    "block": block,
    "yard": yard,
    "wall": wall,
    "fence": fence,
    "hedge": hedge,
    "open": open_ground,
    "park": park,
}
