"""Ctrl-C and SIGTERM: a wish to stop after the step (`StopSignals`), or an exception at once (`terminable`)."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_WATCHED = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Remembers the first SIGINT or SIGTERM; a second one stops at once. A context manager."""

    def __init__(self) -> None:
        self.received: int = 0
        self._owner = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        self.install()
        return self

    def __exit__(self, *exception: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def install(self) -> None:
        """Take the handlers, again if someone else took them since; signals that are ignored stay ignored."""
        # Python hands signals to the main thread only.
        if threading.current_thread() is not threading.main_thread():
            return
        for signum in _WATCHED:
            current = signal.getsignal(signum)
            if current in (signal.SIG_IGN, None) or current == self._handle:
                continue
            self._before.setdefault(signum, current)
            signal.signal(signum, self._handle)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        # Data workers inherit the handler by fork: they leave stopping to the run itself.
        if os.getpid() != self._owner:
            return
        if self.received:
            raise KeyboardInterrupt
        self.received = signum
        os.write(2, b"\nfinishing this step and writing a checkpoint; again to stop at once\n")


@contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM stops as Ctrl-C does, its number in the exception; where it is ignored it stays so."""

    def stop(signum: int, _: FrameType | None) -> None:
        # A process forked inside has its own way to end.
        if os.getpid() == owner:
            raise KeyboardInterrupt(signum)

    owner = os.getpid()
    watched = threading.current_thread() is threading.main_thread()
    watched = watched and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if watched:
        signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if watched:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
