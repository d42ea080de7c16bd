"""What every layout shares: its records, its error, and how it codes masks."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

IGNORE = 255


@dataclass(frozen=True)
class Sample:
    """One still: its id, its image, and its label mask (None where the set has no labels)."""

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
        classes: names; the file holds their indices.
        void: the file value of pixels that do not count (decoded to 255).
        mask_cure: where a right mask comes from.
        foreign: further file values that betray a known other coding, and that coding's name.
    """

    classes: tuple[str, ...]
    void: int
    mask_cure: str
    foreign: tuple[range, str]
    table: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        # One table decodes and checks at once: 254 marks a value that the layout does not know.
        table = np.full(256, 254, np.uint8)
        table[: len(self.classes)] = np.arange(len(self.classes), dtype=np.uint8)
        table[self.void] = IGNORE
        object.__setattr__(self, "table", table)
