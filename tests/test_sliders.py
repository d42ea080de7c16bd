"""The sliders of the notebooks: pages run headless leave them out, so their work is asked for here.

Each page runs up to its slider as a script; then the function behind the slider is called with the
values that the slider can take.
"""

from pathlib import Path

import IPython.display
import ipywidgets
import matplotlib.figure
import matplotlib.pyplot as plt
import pytest

from kdlib.notebook import pairs

ROOT = Path(__file__).resolve().parents[1]
PAGES = [page for page in pairs.texts(ROOT) if "ipywidgets" in page.read_text(encoding="utf-8")]
PAPERS = {"affinity", "funmatch", "imitation", "structured"}


def values(slider) -> list:
    """Both ends of a slider, its middle, and where it stands at first."""
    if hasattr(slider, "options"):
        found = list(slider.options)
    else:
        steps = round((slider.max - slider.min) / slider.step)
        found = [slider.min + k * slider.step for k in range(steps + 1)]
    return [found[0], found[len(found) // 2], slider.value, found[-1]]


def test_there_are_sliders():
    assert {page.parent.name for page in PAGES} == PAPERS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_a_slider_draws_for_every_value(page, monkeypatch):
    sliders, shown = [], []
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("KDLIB_HEADLESS")
    monkeypatch.setattr(ipywidgets, "interact", lambda act, **named: sliders.append((act, named)))
    monkeypatch.setattr(IPython.display, "display", lambda *those: shown.extend(those))
    names: dict = {"__name__": "page"}
    cells = [cell for cell in pairs.read_text(page).cells if cell.cell_type == "code"]
    last = max(i for i, cell in enumerate(cells) if "interact(" in cell.source)
    for cell in cells[: last + 1]:
        exec(compile(cell.source, f"{page.name}: {cell.source[:40]!r}", "exec"), names)
    ((act, named),) = sliders
    ((name, slider),) = named.items()
    for value in values(slider):
        shown.clear()
        act(**{name: value})
        drawn = shown or [plt.gcf()]
        assert all(isinstance(one, matplotlib.figure.Figure) for one in drawn), f"{name} = {value}"
        assert all(any(axis.has_data() for axis in one.axes) for one in drawn), f"{name} = {value}"
    plt.close("all")
