"""metrics.jsonl: one JSON object a line and a step, safe against kill -9."""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from farfield.apps.training.atomic import atomic_write


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Lines of a metrics.jsonl, a torn last one left out.

    Args:
        path: The file; a missing one has no lines.

    Returns:
        One dict a line: `step`, `time` (seconds since 1970) and the metrics; a value that was not finite is None.
    """
    path = Path(path)
    if not path.is_file():
        return []
    lines = []
    for number, raw in enumerate(path.read_bytes().split(b"\n"), start=1):
        line = _parse(raw)
        if line is not None:
            lines.append(line)
        elif raw.strip():
            warnings.warn(f"{path}, line {number} is torn and left out: a killed run was writing it", stacklevel=2)
    return lines


class MetricsLog:
    """Writes metrics.jsonl: all metrics of a step in one line, whenever in the step they come.

    A line waits for its step to end or for flush; once written it grows in place.

    Args:
        path: File to append to; created when missing.
        last_step: Lines beyond this step are dropped first, and a torn last line with them: the run goes on from there.
    """

    def __init__(self, path: str | Path, last_step: int = 0) -> None:
        self.path = Path(path)
        self._step: int | None = None
        self._line: dict[str, Any] = {}
        self._written = 0
        self._data = b""
        self._repair(last_step)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        self._offset = os.lseek(self._file, 0, os.SEEK_END)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add metrics to the line of a step; the line before is written when a new step comes.

        Args:
            step: Optimiser steps done; never less than the last one.
            metrics: Names and numbers.
        """
        if step != self._step:
            self._write()
            self._offset += self._written
            self._written = 0
            self._step, self._line = step, {"step": step, "time": round(time.time(), 3)}
        self._line |= {name: _finite(value) for name, value in metrics.items()}
        if self._written:
            self._write()

    def flush(self) -> None:
        """Put everything logged so far on disk; metrics that still come for the same step join its line."""
        self._write()
        os.fsync(self._file)

    def close(self) -> None:
        """Flush and close the file."""
        self.flush()
        os.close(self._file)

    def _write(self) -> None:
        if self._step is None or len(self._line) <= 2:
            return
        # Written over itself, in one call; blanks cover what a shorter number leaves of the line before.
        data = json.dumps(self._line, allow_nan=False).encode().ljust(self._written - 1) + b"\n"
        if data != self._data:
            self._written = os.pwrite(self._file, data, self._offset)
            self._data = data

    def _repair(self, last_step: int) -> None:
        if not self.path.exists():
            return
        raw = self.path.read_bytes()
        kept = [text for text in raw.split(b"\n") if (line := _parse(text)) is not None and line["step"] <= last_step]
        repaired = b"".join(text + b"\n" for text in kept)
        if repaired != raw:
            atomic_write(self.path, repaired)


def _parse(raw: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(raw)
    except ValueError:
        return None
    return line if isinstance(line, dict) and isinstance(line.get("step"), int) else None


def _finite(value: float) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
