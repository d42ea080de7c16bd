"""A clip: the world that a seed draws, and the drive through it."""

from dataclasses import dataclass, replace

from kdlib.simulate.bodies import CAR_PAINTS
from kdlib.simulate.camera import Lens, Road, lay_road
from kdlib.simulate.dice import Dice
from kdlib.simulate.frontage import frontage
from kdlib.simulate.furniture import furnish, signals
from kdlib.simulate.ground import Ground, bonnet_outline
from kdlib.simulate.paint import road_marks, worn_off
from kdlib.simulate.plan import VIEW, Plan, Thing
from kdlib.simulate.shape import Color
from kdlib.simulate.style import WorldStyle
from kdlib.simulate.traffic import crowd, drive


@dataclass(frozen=True)
class Clip:
    """A drawn world and the drive through it."""

    road: Road
    lens: Lens
    ground: Ground
    things: list[Thing]
    scene: str
    weather: str
    time: str
    offset: float  # the camera's offset u
    speed: float  # m/s
    turn: float
    sun: float  # metres of shadow to the right per metre of height; 0 without sun
    lit: bool  # whether lamps are on
    bonnet: list[tuple[float, float]] | None
    bonnet_color: Color
    worn: bool = False  # whether the lane lines can hardly be seen


def draw_up(seed: str, style: WorldStyle, seconds: float) -> tuple[Clip, Dice]:
    """The clip of a seed, and the dice that go on from there for its sky and weather."""
    dice = Dice(style.name, seed)
    scene, weather = dice.weighted(style.scenes), dice.weighted(style.weathers)
    time = dice.weighted(style.times)
    own_speed = dice.uniform(14, 25) if scene == "highway" else dice.uniform(2, 11)
    if scene != "highway" and dice.chance(0.12):
        own_speed = 0.0
    end = own_speed * seconds + VIEW
    plan = Plan(dice, style, scene, weather, time, end)
    metres = int(end) + 220
    bend, rise, bends, rises = 0.0, 0.0, [], []
    sharp = 0.002 if scene == "highway" else 0.006
    for k in range(metres):
        if k % 40 == 0:
            to_bend = dice.uniform(-sharp, sharp) * dice.chance(0.65)
            to_rise = dice.uniform(-0.035, 0.035) * dice.chance(0.7)
        bend, rise = bend + (to_bend - bend) * 0.05, rise + (to_rise - rise) * 0.04
        bends.append(bend)
        rises.append(rise)
    road = lay_road(-20, bends, rises)
    lens = Lens(
        dice.uniform(*style.focal),
        dice.uniform(*style.horizon),
        dice.uniform(0.46, 0.54),
        dice.uniform(*style.camera_height),
        dice.bell(-style.roll, style.roll),
    )
    own_lane = plan.ahead - 1 if dice.chance(0.65) else 0
    # What only some worlds have has dice of its own, so that it moves nothing in the others.
    more = Dice(style.name, seed, "road")
    if style.roams:
        own_lane = more.integer(0, plan.ahead - 1)
    offset = style.way * plan.lane * (own_lane + 0.5) + dice.uniform(-0.4, 0.4)
    ground = plan.ground()
    if style.near:
        ground = replace(ground, near=True)
    worn = style.worn > 0 and more.chance(style.worn)
    if worn:
        ground = worn_off(ground, more)
    if style.marked:
        ground = replace(ground, marks=road_marks(plan, ground, more))
    for side in (-1, 1):
        frontage(plan, side)
        furnish(plan, side)
    signals(plan)
    crowd(plan)
    drive(plan, own_speed, own_lane)
    outline = bonnet_outline(dice) if dice.chance(0.55) else None
    sun = 0.0
    if weather in ("clear", "partly cloudy") and time != "night":
        sun = dice.sign() * dice.uniform(0.25, 1.5)
    clip = Clip(
        road,
        lens,
        ground,
        plan.things,
        scene,
        weather,
        time,
        offset,
        own_speed,
        dice.bell(-0.06, 0.06),
        sun,
        plan.lit,
        outline,
        dice.tint(dice.pick(CAR_PAINTS), 0.2),
        worn,
    )
    return clip, dice
