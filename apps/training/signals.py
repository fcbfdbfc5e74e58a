"""Ctrl-C and SIGTERM as a wish to stop after the step, not in the middle of it."""

from __future__ import annotations

import os
import signal
import threading
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
