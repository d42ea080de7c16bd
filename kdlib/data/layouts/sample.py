"""What every layout shares: its records, its error, and how it codes masks."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

IGNORE = 255


@dataclass(frozen=True)
class Sample:
    """One still: its id, its image, and the file of its mask, boxes or lanes.

    label: None where the set has no labels. A file may hold those of many stills.
    """

    id: str
    image: Path
    label: Path | None


@dataclass(frozen=True)
class Video:
    """One clip: its id and its file."""

    id: str
    path: Path


@dataclass(frozen=True)
class Problem:
    """One fault of a data tree: the file, what is wrong with it, and what to do about it."""

    path: Path
    what: str
    cure: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        return f"{self.path}: {self.what}. Cure: {self.cure}."


class LayoutError(ValueError):
    """A data tree cannot be read; the text names the file, the cause and the cure."""

    def __init__(self, path: Path, what: str, cure: str):
        super().__init__(str(Problem(Path(path), what, cure)))
        self.problem = Problem(Path(path), what, cure)

    def __reduce__(self):
        return type(self), (self.problem.path, self.problem.what, self.problem.cure)


@dataclass(frozen=True)
class Coding:
    """How a layout writes its masks.

    Args:
        classes: names; the file holds their indices, or `values`.
        void: the file value, or values, of pixels that do not count (decoded to 255).
        mask_cure: where a right mask comes from.
        foreign: further file values that betray a known other coding, and that coding's name.
        values: the file value of each class; empty = its index.
        doubt: called with a mask whose values are all known; tells what is wrong with them
            together, or "".
    """

    classes: tuple[str, ...]
    void: int | tuple[int, ...]
    mask_cure: str
    foreign: tuple[range, str]
    values: tuple[int, ...] = ()
    doubt: Callable[[np.ndarray], str] | None = None
    table: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        # One table decodes and checks at once: 254 marks a value that the layout does not know.
        table = np.full(256, 254, np.uint8)
        values = self.values or range(len(self.classes))
        for index, value in zip(range(len(self.classes)), values, strict=True):
            table[value] = index
        table[list(_tuple(self.void))] = IGNORE
        object.__setattr__(self, "table", table)

    @property
    def known(self) -> str:
        """The file values that may occur, as text: "0..18 and 255 are classes"."""
        values = sorted(self.values or range(len(self.classes)))
        voids = _tuple(self.void)
        if len(voids) > 1 or values[-1] - values[0] >= len(values):
            known = sorted({*values, *voids})
            return f"{_spans(known)} are known"
        return f"{_spans(values)} and {voids[0]} are classes"


def _tuple(void: int | tuple[int, ...]) -> tuple[int, ...]:
    return void if isinstance(void, tuple) else (void,)


def _spans(values: list[int]) -> str:
    """Sorted numbers as "0..33, 255"."""
    spans: list[list[int]] = []
    for value in values:
        if spans and value == spans[-1][1] + 1:
            spans[-1][1] = value
        else:
            spans.append([value, value])
    return ", ".join(f"{first}..{last}" if last > first else f"{first}" for first, last in spans)
