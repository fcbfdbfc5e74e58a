"""A bar over runs: how many are done, how far the present one is, time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def progress_bar(what: str, total: float, unit: str) -> Iterator[Callable[[float], None]]:
    """A bar on standard error, a line every half minute where that is no terminal.

    Yields: The function that sets how many units are done; fractions count.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f}%"))
    told = time.monotonic()
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, *times, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)

        def at(done: float) -> None:
            nonlocal told
            bar.update(task, completed=done, description=f"{what} {min(int(done) + 1, int(total))}/{int(total)} {unit}")
            now = time.monotonic()
            if not console.is_terminal and now - told > SECONDS_BETWEEN_LINES:
                told = now
                print(f"{what}: {done:.1f} of {total:g} {unit}", file=sys.stderr, flush=True)

        yield at
