"""People, riders and vehicles on the move or parked."""

from kdlib.simulate import coaches, people, vehicles
from kdlib.simulate.plan import Plan

ACROSS = ((1.0, 0.0), (-1.0, 0.0))


def crowd(plan: Plan) -> None:
    """People on the sidewalks and on the crosswalks, riders beside the lanes."""
    dice, style, way = plan.dice, plan.style, plan.style.way
    busy = style.people * dice.uniform(0.3, 1.8)
    if not plan.highway:
        for side in (-1, 1):
            edge = plan.right if side > 0 else plan.left
            count = int(busy * plan.end / (9 if plan.city else 17) + dice.uniform())
            for _ in range(count):
                s, u = dice.uniform(4, plan.end), edge + side * dice.uniform(0.7, plan.sidewalk)
                pace = dice.uniform(-1.6, 1.6)
                for k in range(dice.weighted(((1, 6.0), (2, 3.0), (3, 1.0)))):
                    plan.add(
                        people.person(dice),
                        s + dice.uniform(-0.3, 0.3),
                        u + 0.55 * side * k,
                        y=0.13,
                        yaw=None,
                        speed=pace,
                        reach=65,
                        shadow=(0.35, 0.25),
                    )
        for s, _ in plan.crossings:
            for _ in range(dice.integer(0, 3)):
                u = dice.uniform(plan.left, plan.right)
                plan.add(
                    people.person(dice),
                    s - dice.uniform(2.0, 4.2),
                    u,
                    yaw=None,
                    drift=dice.uniform(-1.4, 1.4),
                    reach=65,
                    shadow=(0.35, 0.25),
                )
    count = int(style.cycles * plan.end / (24 if not plan.highway else 45) + dice.uniform(0, 1.6))
    for _ in range(count):
        motor = dice.chance(0.5) or plan.highway
        toward = plan.back > 0 and dice.chance(0.35)
        s = dice.uniform(5, plan.end)
        speed = dice.uniform(6, 13) if motor else dice.uniform(2.5, 6)
        edge = plan.right if (way > 0) != toward else plan.left
        inside = -1 if edge > 0 else 1
        lane = dice.uniform(1.0, 2.0) + (plan.parking if not toward or plan.parking else 0.0)
        side = dice.chance(0.25) and not plan.highway
        shape = people.rider(dice, motor, side, plan.lit)
        if side:
            at = dice.pick([a + 3 for a, _ in plan.crossings] or [s])
            plan.add(
                shape,
                at,
                dice.uniform(plan.left, plan.right),
                yaw=None,
                drift=dice.uniform(2, 4),
                reach=70,
                shadow=(0.8, 0.25),
            )
        else:
            plan.add(
                shape,
                s,
                edge + inside * lane,
                yaw=None,
                speed=-speed if toward else speed,
                reach=70,
                shadow=(0.3, 0.8),
            )


def vehicle(plan: Plan, kind: str, s: float, u: float, yaw: int, speed: float) -> None:
    """Add one vehicle on the road; yaw is 1 with the road's way, -1 against it."""
    dice = plan.dice
    make = {"car": vehicles.car, "truck": vehicles.truck, "bus": coaches.bus}[kind]
    shape = make(dice, plan.lit)
    half = float(shape.verts[:, 2].max())
    wide = float(shape.verts[:, 0].max())
    plan.add(
        shape,
        s,
        u,
        yaw=(0.0, float(yaw)),
        speed=speed,
        reach=110,
        shadow=(wide * 1.12, half * 1.04),
    )


def drive(plan: Plan, own_speed: float, own_lane: int) -> None:
    """Traffic in every lane, parked cars, and trams where there are rails."""
    dice, way, style = plan.dice, plan.style.way, plan.style
    kinds = (("car", 9.0), ("truck", 1.2 + plan.highway), ("bus", 0.9 * (not plan.highway) + 0.4))
    dense = style.traffic * dice.uniform(0.35, 1.7)
    flow = max(own_speed, 2.0) if plan.highway else own_speed
    for lane in range(plan.ahead):
        s = dice.uniform(11, 40) if lane == own_lane else dice.uniform(3, 24)
        while s < plan.end:
            u = way * plan.lane * (lane + 0.5)
            pace = (
                flow * dice.uniform(0.92, 1.04)
                if lane == own_lane
                else flow * dice.uniform(0.8, 1.15)
            )
            vehicle(plan, dice.weighted(kinds), s, u + dice.uniform(-0.2, 0.2), 1, pace)
            s += dice.uniform(10, 40) / dense + 8
    for lane in range(plan.back):
        pace = dice.uniform(5, 12) * (2 if plan.highway else 1)
        s = dice.uniform(6, 30)
        while s < plan.end + pace * 10:
            u = -way * (plan.rail_width + plan.lane * (lane + 0.5))
            vehicle(plan, dice.weighted(kinds), s, u, -1, -pace)
            s += dice.uniform(10, 55) / dense + 9
    if plan.parking:
        for side in (way, -way) if plan.back else (way,):
            edge = plan.right if side > 0 else plan.left
            s = dice.uniform(4, 9)
            while s < plan.end:
                if plan.free(s - 4, s + 4) and dice.chance(0.6):
                    vehicle(
                        plan,
                        dice.weighted((("car", 9.0), ("truck", 0.6))),
                        s,
                        edge - side * 1.1,
                        1 if side == way else -1,
                        0.0,
                    )
                s += dice.uniform(5.6, 7.5)
    if plan.crossings and dice.chance(0.35):
        a, b = dice.pick(plan.crossings)
        shape = vehicles.car(dice, plan.lit)
        plan.add(
            shape,
            (a + b) / 2,
            dice.uniform(-14, 14),
            yaw=dice.pick(ACROSS),
            reach=90,
            drift=dice.uniform(0, 4),
            shadow=(2.3, 1.0),
        )
    trams(plan)


def trams(plan: Plan) -> None:
    """A tram on the rails in the street, or a train on a line beside a highway."""
    dice, way = plan.dice, plan.style.way
    if plan.rail_width:
        u, chance = -way * plan.rail_width / 2, 0.8
    elif plan.highway:
        u, chance = plan.front[0] - dice.uniform(3, 7), 0.4
        if dice.chance(0.5):
            u = plan.front[1] + dice.uniform(3, 7)
    else:
        return
    if not dice.chance(chance):
        return
    s = dice.uniform(6, 45)
    speed = dice.uniform(-8, 3)
    while s < plan.end:
        shape = coaches.tram(dice, plan.lit)
        for _ in range(dice.integer(2, 4)):
            plan.add(
                shape,
                s + 7,
                u,
                y=0.15,
                yaw=(0.0, -1.0 if speed < 0 else 1.0),
                speed=speed,
                deep=4.0,
                reach=110,
                shadow=(1.4, 7.0),
            )
            s += 15.2
        s += dice.uniform(40, 120)
