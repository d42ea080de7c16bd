"""``kdlib data check <layout> <root>``: audits a whole data tree before any training starts."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy as np

from kdlib.data import layouts
from kdlib.data.crew import cores
from kdlib.data.layouts import audit
from kdlib.data.layouts.sample import IGNORE, Problem
from kdlib.progress import bar


@dataclass(frozen=True)
class Audit:
    """The outcome of an audit: files seen by part, problems, and pixels and images by class.

    ``pixels`` and ``images`` have one entry a class and a last one for ignored pixels. In a
    detection layout the first counts boxes, and ``unit`` says so. ``notes`` counts what is no
    fault.
    """

    seen: dict[str, int]
    problems: tuple[Problem, ...]
    classes: tuple[str, ...]
    pixels: np.ndarray
    images: np.ndarray
    unit: str = "pixels"
    notes: Counter[str] = field(default_factory=Counter)

    @property
    def errors(self) -> int:
        return sum(problem.severity == "error" for problem in self.problems)


def check(
    layout: str,
    root: Path,
    *,
    size: tuple[int, int] | None = None,
    full: bool = False,
    workers: int | None = None,
) -> Audit:
    """Looks at every file of a tree.

    Args:
        layout: name of the layout, see `kdlib.data.layouts.get`.
        root: folder of the tree.
        size: height and width that every image must have; None takes the size that most images
            have, and warns where that is not the data set's official one.
        full: decode every video wholly instead of its first frame and its end.
        workers: threads; None = one a core.
    """
    module, root = layouts.get(layout), Path(root)
    todo = module.inspections(root, full=full)
    count = len(module.CLASSES)
    slots = [*range(count), IGNORE]
    pixels, images = np.zeros(count + 1, np.int64), np.zeros(count + 1, np.int64)
    seen: dict[str, int] = {}
    sizes: list[tuple[Path, tuple[int, int]]] = []
    found: list[Problem] = []
    notes: Counter[str] = Counter()
    workers = workers or cores()
    for inspection, finding in bar(audit.run(todo, workers), title="check", total=len(todo)):
        seen[inspection.part] = seen.get(inspection.part, 0) + 1
        found += finding.problems
        notes += finding.notes
        if finding.size is not None:
            sizes.append((inspection.path, finding.size))
        if finding.pixels is not None:
            pixels += finding.pixels[slots]
            images += finding.pixels[slots] > 0
    found += audit.sizes(sizes, size, "unpack the official archive again, or give the right --size")
    found += _warnings(module, root, seen, sizes, size, pixels)
    unit = "boxes" if module.TASK == "detection" else "pixels"
    return Audit(seen, tuple(found), tuple(module.CLASSES), pixels, images, unit, notes)


def _warnings(
    module: ModuleType,
    root: Path,
    seen: dict[str, int],
    sizes: list[tuple[Path, tuple[int, int]]],
    size: tuple[int, int] | None,
    pixels: np.ndarray,
) -> list[Problem]:
    """What may be meant so: another size, fewer files, classes that do not occur."""
    found: list[Problem] = []
    official = sum(one == module.SIZE for _, one in sizes) * 2 > len(sizes)
    if sizes and size is None and not official:
        height, width = module.SIZE
        what = f"most images are not {height}x{width}, the data set's own size"
        cure = "none needed for a simulated or resized tree; say --size to check another size"
        found.append(Problem(root, what, cure, "warning"))
    if official or module.SIZE is None:
        for part, count in module.COUNTS.items():
            if part in seen and seen[part] != count:
                what = f"{seen[part]} files where the official set has {count}"
                cure = "none needed for a subset; else unpack the archive again"
                found.append(Problem(root / part, what, cure, "warning"))
    if pixels.any():
        for name, amount in zip(module.CLASSES, pixels, strict=False):
            if not amount:
                where, score = ("mask", "IoU") if module.TASK == "segmentation" else ("file", "AP")
                cure = f"none needed for a subset; its {score} cannot be measured here"
                what = f"class {name!r} occurs in no {where}"
                found.append(Problem(root, what, cure, "warning"))
    return found


def report(audit: Audit) -> str:
    """The audit as text: parts, class histogram, problems, verdict."""
    lines = [f"{part:<28}{count:>9} checked" for part, count in sorted(audit.seen.items())]
    if total := int(audit.pixels.sum()):
        lines += ["", f"{'class':<16}{audit.unit:>16}{'share':>10}{'images':>9}"]
        rows = zip((*audit.classes, "(ignore)"), audit.pixels, audit.images, strict=True)
        lines += [f"{name:<16}{n:>16,}{n / total:>10.3%}{seen:>9}" for name, n, seen in rows]
    if audit.notes:
        lines += [""] + [f"note: {count:,} {what}" for what, count in sorted(audit.notes.items())]
    lines += [""] + [f"{one.severity}: {one}" for one in audit.problems]
    warnings = len(audit.problems) - audit.errors
    lines.append(f"{audit.errors} errors, {warnings} warnings")
    return "\n".join(lines)
