"""Data sets in their official folder layouts, read unmodified; one module per data set.

Each module offers ``samples``, ``videos``, ``evaluation_ids``, ``read_image``, ``inspections``,
``problems`` and the constants ``TASK``, ``CLASSES``, ``IGNORE``, ``PALETTE``, ``SPLITS``, ``SIZE``
(None where images have no common size), ``COUNTS``. By ``TASK`` it adds

- "segmentation": ``read_label`` and ``CATEGORIES``, the classes in groups;
- "lanes": the same, ``read_lanes`` and ``METRIC``, the official one: "culane" or "llamas";
- "detection": ``read_boxes`` and ``METRIC``, the official one: "coco", "voc" or "kitti"; perhaps
  ``RARE``, classes that a second mean leaves out, and ``unlisted``, the stills without labels.

Where a paper cuts the top of the pictures off, ``read_image`` and ``read_label`` do so. Such a
module has ``read_whole``, ``top_of``, ``TOP``, ``FULL`` and the ``CLASS_WEIGHTS`` of that paper's
cross entropy. Beyond that Cityscapes has ``label_ids``, KITTI ``LIMITS`` and ``difficulty``, CULane
``SCENARIOS`` and ``scenario``, LLAMAS ``read_whole_label``, ApolloScape ``EVALUATED`` and
``label_ids``.
"""

from types import ModuleType

from kdlib.data.layouts import (
    ade20k,
    apolloscape,
    bdd100k,
    bdd100k_boxes,
    camvid,
    cityscapes,
    coco,
    culane,
    kitti,
    llamas,
    voc,
)
from kdlib.data.layouts.sample import IGNORE, LayoutError, Problem, Sample, Video

LAYOUTS: dict[str, ModuleType] = {
    "bdd100k": bdd100k,
    "camvid": camvid,
    "cityscapes": cityscapes,
    "ade20k": ade20k,
    "bdd100k-boxes": bdd100k_boxes,
    "kitti": kitti,
    "voc07": voc,
    "coco": coco,
    "culane": culane,
    "llamas": llamas,
    "apolloscape": apolloscape,
}

__all__ = ["IGNORE", "LAYOUTS", "LayoutError", "Problem", "Sample", "Video", "get"]


def get(name: str) -> ModuleType:
    """The layout module of that name.

    Raises:
        ValueError: unknown name; the text lists the known ones.
    """
    if name not in LAYOUTS:
        raise ValueError(f"unknown layout {name!r}; known: {', '.join(LAYOUTS)}")
    return LAYOUTS[name]
