"""What stands on the sidewalks and verges, and the traffic lights at side streets."""

from kdlib.simulate import people, signs, street
from kdlib.simulate.plan import Plan


def furnish(plan: Plan, side: int) -> None:
    """Lamps, poles, trees, signs, bins and parked two-wheelers along one sidewalk."""
    dice, style = plan.dice, plan.style
    edge = plan.right if side > 0 else plan.left
    near = edge + side * (0.55 if plan.sidewalk else 1.6)
    gap = dice.uniform(16, 34)
    kind = dice.weighted((("lamp", 6.0), ("utility", 2.0), ("none", 1.0)))
    s = dice.uniform(4, 20)
    while s < plan.end and kind != "none":
        if plan.free(s - 1, s + 1):
            if kind == "lamp":
                shape = street.street_light(dice, side, plan.lit)
                plan.add(shape, s, near, y=0.1, yaw=None, reach=90)
            else:
                plan.add(street.utility_pole(dice), s, near, y=0.1, yaw=None, reach=90)
        s += gap * dice.uniform(0.9, 1.1)
    if plan.sidewalk and dice.chance(0.45):
        s, step = dice.uniform(3, 12), dice.uniform(7, 16)
        while s < plan.end:
            if plan.free(s - 2, s + 2):
                plan.tree(s, near + side * 0.3)
            s += step * dice.uniform(0.8, 1.3)
    s = dice.uniform(4, 26)
    while s < plan.end:
        if plan.free(s - 0.6, s + 0.6):
            if dice.chance(0.08 if not plan.highway else 0.4):
                shape = signs.guide_sign(dice)
                plan.add(
                    shape, s, near + side * (1.2 + 1.2 * plan.highway), y=0.1, yaw=None, reach=100
                )
            else:
                shape = signs.traffic_sign(dice, style.sign_kinds)
                plan.add(shape, s, near + side * 0.1, y=0.1, yaw=None, reach=60)
        s += dice.uniform(11, 34)
    if plan.highway and side > 0:
        for _ in range(dice.integer(0, 2)):
            middle = (plan.left + plan.right) / 2
            shape = signs.gantry_sign(dice, (plan.right - plan.left) / 2 + 1.5)
            plan.add(shape, dice.uniform(25, plan.end), middle, yaw=None, reach=120)
    if not plan.sidewalk:
        return
    s = dice.uniform(3, 30)
    while s < plan.end:
        if plan.free(s - 1.2, s + 1.2):
            what = dice.weighted(
                (
                    ("bin", 3.0),
                    ("bollard", 2.0),
                    ("cycle", 5.0 * style.cycles),
                    ("motor", 4.0 * style.cycles),
                )
            )
            if what == "bin":
                plan.add(street.litter_bin(dice), s, near + side * 0.5, y=0.12, yaw=None, reach=45)
            elif what == "bollard":
                for k in range(dice.integer(2, 5)):
                    plan.add(
                        street.bollard(dice),
                        s + 1.6 * k,
                        near - side * 0.2,
                        y=0.12,
                        yaw=None,
                        reach=45,
                    )
            else:
                for k in range(dice.integer(1, 3)):
                    plan.add(
                        people.parked(dice, what == "motor"),
                        s + 0.7 * k,
                        near + side * dice.uniform(0, 0.8),
                        y=0.1,
                        yaw=None,
                        reach=50,
                        shadow=(0.6, 0.2),
                    )
        s += dice.uniform(6, 20)


def signals(plan: Plan) -> None:
    """Traffic lights at the side streets, and one gantry or post on some highways."""
    dice, way = plan.dice, plan.style.way
    for s, far in plan.crossings:
        if not dice.chance(0.72 if plan.city else 0.45):
            continue
        state = dice.weighted((("red", 4.0), ("green", 4.0), ("yellow", 1.0)))
        places = [(s - 1.2, way)]
        if dice.chance(0.7):
            places.append((far + 0.6, way))
        if dice.chance(0.6):
            places.append((s - 1.2 if dice.chance(0.5) else far + 0.6, -way))
        for at, side in places:
            edge = plan.right if side > 0 else plan.left
            reach = dice.uniform(2.5, 4.6) if dice.chance(0.5) else 0.0
            shape = street.traffic_light(dice, side, reach, state)
            plan.add(shape, at, edge + side * 0.5, y=0.1, yaw=None, reach=85, color=state)
