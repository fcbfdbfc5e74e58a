"""What a person sees while documents are read: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def progress_bar(what: str, total: float, unit: str) -> Iterator[Callable[[float], None]]:
    """A bar on standard error with rate and time left.

    Yields: The function that sets how many units are done.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    began = told = time.monotonic()
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, *times, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total, rate="")

        def at(done: float) -> None:
            nonlocal told
            now = time.monotonic()
            rate = done / max(now - began, 1e-9)
            bar.update(task, completed=done, rate=f"{rate:,.0f} {unit}/s")
            if not console.is_terminal and now - told > SECONDS_BETWEEN_LINES:
                told = now
                left = (total - done) / max(rate, 1e-9)
                console.print(f"{what}: {done:,.0f} of {total:,.0f} {unit}, {rate:,.0f}/s, {duration(left)} left")

        yield at


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
