"""The 19 classes that are drawn, by their Cityscapes train ids."""

ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, LIGHT, SIGN, VEGETATION, TERRAIN = range(10)
SKY, PERSON, RIDER, CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE = range(10, 19)
IGNORE = 255

NAMES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
    "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train",
    "motorcycle", "bicycle",
)  # fmt: skip

# What is painted on the road. A frame carries these codes among its classes until it is drawn.
MARKS = (
    "single white", "single yellow", "double white", "double yellow", "dashed white",
    "dashed yellow", "stop line", "crosswalk", "through", "left", "right", "through left",
    "through right",
)  # fmt: skip
ARROWS = MARKS[8:]
FIRST_MARK = 100

# Detection categories of BDD100K, by class; classes that are not here have no boxes.
BOXED = {
    PERSON: "pedestrian", RIDER: "rider", CAR: "car", TRUCK: "truck", BUS: "bus", TRAIN: "train",
    MOTORCYCLE: "motorcycle", BICYCLE: "bicycle", LIGHT: "traffic light", SIGN: "traffic sign",
}  # fmt: skip
