"""Work spread over processes that end with the one that started them."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from tqdm import tqdm

from kdlib.progress import bar

A = TypeVar("A")
B = TypeVar("B")


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0))


def progress(total: int, unit: str) -> tqdm:
    """A progress bar over the clips of a rendering."""
    return bar(title="rendering", total=total, unit=unit)


def spread(work: Callable[[A], B], items: Iterable[A], workers: int | None) -> Iterator[B]:
    """Results of work(item) in order, from `workers` processes (None: one per core)."""
    workers = workers or cores()
    if workers == 1:
        yield from map(work, items)
        return
    with ProcessPoolExecutor(workers, initializer=_end_with, initargs=(os.getpid(),)) as pool:
        yield from pool.map(work, items, chunksize=2)


def _end_with(parent: int) -> None:
    """End this process soon after its parent is gone: a killed parent can't tell its workers."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
