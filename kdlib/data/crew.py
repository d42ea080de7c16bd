"""A crew of worker processes that survives the death of one of them, and dies with its parent."""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import connection, get_context, parent_process
from typing import Any

import cv2

DIED = object()  # the result of a task whose process died (a crash inside a decoder, out of memory)
AHEAD = 4  # tasks handed out per worker, so that nobody waits while results are being used


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def work_through(
    function: Callable[..., Any], tasks: Iterable[tuple], workers: int
) -> Iterator[Any]:
    """``function(*task)`` for every task, results in the order of the tasks.

    With one worker everything runs in this process. With more, a process that dies does not take
    the others' work with it: the tasks that were out are done again one by one, and the one that
    kills its process again gives `DIED`. An exception of the function is raised here.

    Raises:
        RuntimeError: processes cannot start at all.
    """
    if workers <= 1:
        yield from (function(*task) for task in tasks)
        return
    tasks = iter(tasks)
    pool = _pool(workers)
    out: deque[tuple[tuple, Future]] = deque()
    try:
        while True:
            for task in islice(tasks, AHEAD * workers - len(out)):
                out.append((task, _submit(pool, function, task)))
            if not out:
                return
            task, future = out.popleft()
            try:
                yield future.result()
            except BrokenProcessPool:
                pool.shutdown()
                suspects = [task, *(waiting for waiting, _ in out)]
                out.clear()
                yield from _one_by_one(function, suspects)
                pool = _pool(workers)
    finally:
        pool.shutdown(cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, function: Callable[..., Any], task: tuple) -> Future:
    """The task's future; one that has failed already where the pool broke a moment ago."""
    try:
        return pool.submit(function, *task)
    except BrokenProcessPool as error:
        failed: Future = Future()
        failed.set_exception(error)
        return failed


def _one_by_one(function: Callable[..., Any], tasks: list[tuple]) -> Iterator[Any]:
    pool = _pool(1)
    try:
        for task in tasks:
            try:
                yield pool.submit(function, *task).result()
            except BrokenProcessPool:
                pool.shutdown()
                pool = _pool(1)
                _probe(pool)
                yield DIED
    finally:
        pool.shutdown(cancel_futures=True)


def _probe(pool: ProcessPoolExecutor) -> None:
    """Tells a task that kills its process from processes that cannot even start."""
    try:
        pool.submit(cores).result()
    except BrokenProcessPool:
        raise RuntimeError(
            "worker processes cannot start. Cure: a script that uses several workers must do its "
            "work under `if __name__ == '__main__':`; or use one worker"
        ) from None


def _pool(workers: int) -> ProcessPoolExecutor:
    # Spawned, not forked: a fork of a process with running threads (torch, a notebook) can hang.
    return ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start)


def _start() -> None:
    cv2.setNumThreads(1)
    # The parent stops the crew on Ctrl-C; a worker first finishes its clip.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    connection.wait([parent_process().sentinel])
    os._exit(1)
