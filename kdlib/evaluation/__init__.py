"""Scores of a network, against the labels and against its teacher: one module per task.

The functions here take the name of a layout and hand over to the task that it belongs to.
"""

from types import ModuleType
from typing import Any

from kdlib.data import layouts
from kdlib.evaluation import detection, segmentation
from kdlib.evaluation.segmentation import class_counts, predict, summary

__all__ = [
    "agreement_on",
    "class_counts",
    "detection",
    "evaluate",
    "headline",
    "predict",
    "segmentation",
    "summary",
]

TASKS = {"segmentation": segmentation, "detection": detection}


def evaluate(network: Any, layout: str, *arguments: Any, **options: Any) -> dict[str, Any]:
    """Scores on labelled stills; see `evaluate` of the task's module."""
    return _task(layout).evaluate(network, layout, *arguments, **options)


def agreement_on(
    network: Any, teacher: Any, source: Any, layout: str, **options: Any
) -> dict[str, float]:
    """Agreement with a teacher on unlabelled images; see `agreement_on` of the task's module."""
    return _task(layout).agreement_on(network, teacher, source, layout, **options)


def headline(layout: str) -> str:
    """The score by which a network of that layout's task is judged: "miou" or "map"."""
    return _task(layout).HEADLINE


def _task(layout: str) -> ModuleType:
    return TASKS[layouts.get(layout).TASK]
