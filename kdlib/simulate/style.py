"""What makes one simulated world differ from another."""

from dataclasses import dataclass, replace

from kdlib.simulate.shape import Color

Weights = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class WorldStyle:
    """The look and the mix of a world; all worlds share the 19 classes and all drawing code."""

    name: str
    way: int  # 1: traffic keeps to the right, -1: to the left
    scenes: Weights  # BDD100K's names for the place
    weathers: Weights
    times: Weights
    camera_height: tuple[float, float]  # metres
    focal: tuple[float, float]  # focal length / picture width
    horizon: tuple[float, float]  # row of the horizon / picture height
    asphalt: tuple[Color, ...]
    paving: tuple[Color, ...]
    grass: tuple[Color, ...]
    greens: tuple[Color, ...]
    trees: Weights
    facades: tuple[Color, ...]
    buildings: Weights  # in cities; residential streets have mostly houses
    floors: tuple[float, float]  # metres, lowest and highest block
    centre_line: Color
    sign_kinds: tuple[str, ...]
    people: float  # how many, as a factor
    cycles: float
    traffic: float
    rails: float  # probability that trams run in a city street
    ahead: tuple[tuple[int, int], tuple[int, int]] = ((1, 2), (2, 3))  # lanes: streets, highways
    oneway: float = 0.5  # probability that a highway has no traffic coming the other way
    mouth: tuple[float, float] = (7.0, 12.0)  # metres across a side street
    roll: float = 0.02  # tangent of the camera's largest roll
    roams: bool = False  # the own car drives in any lane, not in the outermost ones alone
    near: bool = False  # paint that reaches below the picture is drawn, not left out whole
    marked: bool = False  # stop lines and arrows are painted
    worn: float = 0.0  # probability that the lines are worn off


HOME = WorldStyle(
    name="home",
    way=1,
    scenes=(("city street", 6.0), ("residential", 3.0), ("highway", 2.0)),
    weathers=(("clear", 5.0), ("partly cloudy", 2.5), ("overcast", 2.5), ("rainy", 1.6),
              ("foggy", 1.0), ("snowy", 0.5)),
    times=(("daytime", 6.5), ("dawn/dusk", 1.8), ("night", 1.7)),
    camera_height=(1.25, 1.65),
    focal=(0.82, 1.08),
    horizon=(0.42, 0.54),
    asphalt=((84, 84, 88), (98, 96, 94), (70, 72, 76), (112, 108, 104), (92, 84, 80)),
    paving=((150, 146, 140), (168, 160, 150), (128, 126, 126), (158, 134, 120), (140, 146, 150)),
    grass=((92, 116, 58), (112, 124, 66), (128, 122, 74), (74, 98, 52), (146, 130, 92)),
    greens=((58, 92, 44), (76, 110, 50), (46, 76, 42), (98, 118, 56),
            (122, 116, 50), (150, 100, 44)),
    trees=(("round", 6.0), ("poplar", 1.2), ("fir", 1.2), ("bare", 1.0), ("palm", 0.4)),
    facades=((188, 174, 150), (206, 196, 176), (150, 92, 74), (170, 116, 92), (132, 128, 126),
             (214, 208, 200), (176, 184, 188), (196, 160, 110), (120, 100, 90), (164, 176, 160),
             (222, 198, 160), (104, 108, 116)),
    buildings=(("shops", 4.0), ("flats", 4.0), ("office", 2.0), ("house", 1.0), ("shed", 0.7)),
    floors=(6.0, 26.0),
    centre_line=(226, 186, 70),
    sign_kinds=("limit", "warning", "stop", "diamond", "blue", "parking", "plate"),
    people=1.0,
    cycles=1.0,
    traffic=1.0,
    rails=0.3,
)  # fmt: skip

ELSEWHERE = WorldStyle(
    name="elsewhere",
    way=-1,
    scenes=(("city street", 4.0), ("residential", 4.0), ("highway", 2.5)),
    weathers=(("clear", 4.0), ("partly cloudy", 2.0), ("overcast", 3.0), ("rainy", 2.5),
              ("foggy", 2.0), ("snowy", 1.5)),
    times=(("daytime", 5.0), ("dawn/dusk", 3.0), ("night", 2.0)),
    camera_height=(1.8, 2.6),
    focal=(0.62, 0.84),
    horizon=(0.34, 0.46),
    asphalt=((118, 104, 92), (62, 64, 72), (134, 130, 124), (104, 90, 84)),
    paving=((182, 150, 122), (120, 112, 108), (196, 188, 170), (110, 120, 128)),
    grass=((168, 146, 90), (120, 132, 84), (182, 160, 116), (84, 112, 70), (150, 104, 70)),
    greens=((84, 104, 66), (52, 84, 64), (130, 128, 70), (150, 84, 40),
            (70, 96, 84), (168, 130, 60)),
    trees=(("palm", 3.0), ("fir", 3.0), ("bare", 2.5), ("poplar", 2.0), ("round", 2.0)),
    facades=((226, 178, 128), (214, 140, 110), (240, 226, 200), (120, 150, 170), (198, 120, 104),
             (236, 210, 130), (150, 168, 140), (92, 84, 96), (180, 190, 210)),
    buildings=(("shed", 2.0), ("house", 3.0), ("office", 3.0), ("flats", 2.0), ("shops", 2.0)),
    floors=(4.0, 38.0),
    centre_line=(232, 232, 228),
    sign_kinds=("diamond", "plate", "blue", "warning", "limit"),
    people=1.4,
    cycles=1.6,
    traffic=0.9,
    rails=0.4,
)  # fmt: skip

# The worlds of the lane data sets: roads with more lanes, seen as each set's camera sees them.
CULANE = replace(
    HOME,
    name="culane",
    times=(("daytime", 6.0), ("dawn/dusk", 1.6), ("night", 2.0)),
    camera_height=(1.3, 1.6),
    horizon=(0.42, 0.49),
    traffic=0.8,
    rails=0.0,
    ahead=((2, 3), (2, 4)),
    mouth=(8.0, 28.0),
    roams=True,
    near=True,
    marked=True,
    worn=0.16,
)
LLAMAS = replace(
    HOME,
    name="llamas",
    scenes=(("highway", 1.0),),
    weathers=(("clear", 5.0), ("partly cloudy", 3.0), ("overcast", 2.0)),
    times=(("daytime", 8.0), ("dawn/dusk", 2.0)),
    focal=(1.5, 1.9),
    horizon=(0.48, 0.52),
    ahead=((2, 3), (3, 4)),
    oneway=1.0,
    roll=0.0,
    roams=True,
    near=True,
)
APOLLOSCAPE = replace(
    HOME,
    name="apolloscape",
    scenes=(("city street", 6.0), ("residential", 2.0), ("highway", 1.0)),
    weathers=(("clear", 5.0), ("partly cloudy", 3.0), ("overcast", 3.0)),
    times=(("daytime", 8.0), ("dawn/dusk", 2.0)),
    camera_height=(1.6, 1.9),
    focal=(0.66, 0.74),
    horizon=(0.54, 0.6),
    traffic=0.6,
    rails=0.0,
    ahead=((1, 3), (2, 3)),
    oneway=0.0,  # a highway's one edge line is yellow by either name, and here the name counts
    roams=True,
    near=True,
    marked=True,
)

WORLDS = {style.name: style for style in (HOME, ELSEWHERE, CULANE, LLAMAS, APOLLOSCAPE)}
