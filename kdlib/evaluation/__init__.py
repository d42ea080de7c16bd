"""Scores of a network, against the labels and against its teacher: one module per task.

The functions here take the name of a layout and hand over to the task that it belongs to.
"""

from types import ModuleType
from typing import Any

from lightning.fabric import Fabric
from torch import nn

from kdlib import progress
from kdlib.data import layouts
from kdlib.data.loader import Source
from kdlib.evaluation import detection, lanes, segmentation
from kdlib.evaluation.feeding import chunks, spread
from kdlib.evaluation.segmentation import class_counts, predict, summary

__all__ = [
    "agreement_on",
    "class_counts",
    "detection",
    "evaluate",
    "headline",
    "predict",
    "segmentation",
    "slack",
    "summary",
]

TASKS = {"segmentation": segmentation, "detection": detection, "lanes": lanes}


def evaluate(network: nn.Module, layout: str, *arguments: Any, **options: Any) -> dict[str, Any]:
    """Scores on labelled stills; see `evaluate` of the task's module."""
    return _task(layout).evaluate(network, layout, *arguments, **options)


def agreement_on(
    network: nn.Module,
    teacher: nn.Module,
    source: Source,
    layout: str,
    *,
    fabric: Fabric,
    count: int,
    batch: int = 8,
    title: str = "agreement",
) -> dict[str, float]:
    """Agreement on `count` unlabelled images, spread evenly over the source, at the view's size."""
    pair = _task(layout).Pair(network, teacher, layouts.get(layout), fabric)
    places = spread(count, len(source))
    for some in progress.bar(list(chunks(places, batch)), title=title):
        pair.compare([source.read(place)[0] for place in some])
    return pair.agreement()["agreement"]


def headline(layout: str) -> str:
    """The score by which a network of that layout's task is judged: "miou", "map" or "f1"."""
    return _task(layout).headline(layouts.get(layout))


def slack(layout: str) -> float:
    """By how much a network's headline may differ on another device, on the sample of a teacher."""
    return getattr(_task(layout), "SLACK", 0.005)


def _task(layout: str) -> ModuleType:
    return TASKS[layouts.get(layout).TASK]
