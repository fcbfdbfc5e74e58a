"""Processes that share a list of runs, and end when whoever started them does, however that ends."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

from farfield.apps.training import UserError

Item = TypeVar("Item")
Make = Callable[[Item, Callable[[float], None]], None]
SECONDS_BETWEEN_LOOKS = 0.5


def spread(make: Make[Item], items: Sequence[Item], workers: int) -> Iterator[Item]:
    """Calls make(item, advance) for every item in so many processes; yields each item when it is done.

    Raises: what make raises; UserError: a process died (of too little memory, most likely). The others are ended.
    """
    context = get_context("spawn")
    stop = context.Event()
    with ProcessPoolExecutor(workers, context, _begin, (stop, os.getpid())) as pool:
        try:
            futures = {pool.submit(_call, make, item): item for item in items}
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BrokenProcessPool as error:
            raise UserError(
                f"a process of {workers} died, most likely of too little memory; finished runs are kept: go on with"
                " resume= and fewer workers"
            ) from error
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin(stop: Any, parent: int) -> None:
    """In a new process: leaves Ctrl-C to the parent, and ends when the parent says so or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while not stop.wait(SECONDS_BETWEEN_LOOKS) and os.getppid() == parent:
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _call(make: Make[Item], item: Item) -> None:
    make(item, lambda share: None)
