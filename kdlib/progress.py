"""Progress bars that read well in a terminal, in JupyterLab and in a log file."""

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def bar(work: Iterable[Any] | None = None, *, title: str, **options: Any) -> tqdm:
    """A tqdm bar on standard output.

    In a terminal or a notebook that someone watches it moves twice a second. Where the output goes
    to a log (a pipe, or a notebook run headless, which sets KDLIB_HEADLESS) every update is a line
    of its own, so there is one every 20 seconds.
    """
    watched = not os.environ.get("KDLIB_HEADLESS") and (
        sys.stdout.isatty() or "ipykernel" in sys.modules
    )
    pace = 0.5 if watched else 20.0
    return tqdm(
        work, desc=title, file=sys.stdout, mininterval=pace, dynamic_ncols=watched, **options
    )
