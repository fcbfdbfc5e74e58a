"""Likelihood of bases under a HyenaDNA: windows in, nats of every target out, in passes of bounded size."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from farfield.apps.genomics.datamodule import Ids, padded
from farfield.apps.genomics.hyenadna import HyenaDNA, HyenaDNAConfig
from farfield.apps.genomics.inference import MemoryEstimate, forward_long, memory_estimate
from farfield.apps.training import Interrupted, UserError
from farfield.apps.training.device import autocast_for, check_precision, resolve_device
from farfield.apps.training.metrics import MetricsLog, read_metrics
from farfield.apps.training.signals import terminable

Nats = NDArray[np.floating[Any]]
# Tokens of one pass over short windows, so many that the device is busy; a longer window goes alone.
PASS_TOKENS = {"cpu": 16_384, "cuda": 262_144}
PACKAGED = ("hyenadna-ecoli-1m", "hyenadna-ecoli-1k")
SECONDS_BETWEEN_LINES = 30.0


class Window(NamedTuple):
    """Tokens to read at once: how many (the last L of L + 1 are targets), how to get them, and whose they are."""

    key: int
    tokens: int
    read: Callable[[], Ids]


Pass = list[Window]


class Passes:
    """The passes over some windows; which windows share one depends on their lengths and the settings alone.

    Args:
        windows: Those of one key follow each other.
        model: A language model, on the device to use.
        precision: fp32, bf16 or fp16.
        memory_gb: Most memory of a pass, in 10^9 bytes; None is as much as is fastest.
    Raises: UserError: a window does not fit into memory_gb; a setting is wrong.
    """

    def __init__(self, windows: Iterable[Window], model: HyenaDNA, precision: str, memory_gb: float | None) -> None:
        self.model, self.precision = model, precision
        self.device = model.backbone.table.device
        check_precision(precision, self.device)
        if memory_gb is not None and not (isinstance(memory_gb, int | float) and memory_gb > 0):
            raise UserError(f"memory_gb={memory_gb}: a number of 10^9 bytes above 0 is accepted, for example 4")
        self.limit = None if memory_gb is None else int(memory_gb * 1e9)
        self.all = list(_passes(windows, model.config, PASS_TOKENS[self.device.type], self.limit))
        shapes = {(max(w.tokens for w in p), len(p)) for p in self.all}
        self.longest = max((tokens for tokens, _ in shapes), default=0)
        least = max((_need(model.config, *shape).total(1) for shape in shapes), default=0)
        if self.limit is not None and least > self.limit:
            raise UserError(
                f"memory_gb={memory_gb}: a pass over {self.longest:,} bases takes at least {least / 1e9:.2f} GB; raise"
                " it, or read fewer bases at once (window= of score, seqlen= of evaluate)"
            )
        most = max((_need(model.config, *shape).total() for shape in shapes), default=0)
        self.memory = most if self.limit is None else min(most, self.limit)

    def tell(self) -> None:
        """Says on standard error what will be read and what it takes, before anything is allocated."""
        print(
            f"a pass reads up to {self.longest:,} bases at once and takes at most {self.memory / 1e9:.2f} GB beside the"
            f" libraries; device={self.device.type}",
            file=sys.stderr,
        )

    def nats(self, what: str, done: Collection[int]) -> Iterator[tuple[int, Ids, Nats]]:
        """Reads every pass that holds a window whose key is not done, under a progress bar.

        Yields: (key, targets (L,), nats (L,)), nats -log p of each target given the tokens before it in its window.
        """
        todo = [p for p in self.all if any(w.key not in done for w in p)]
        total = sum(w.tokens - 1 for p in todo for w in p)
        with progress_bar(what, total, "bases") as advance:
            for windows in todo:
                yield from self._read(windows, advance)

    def _read(self, windows: Pass, advance: Callable[[float], None]) -> Iterator[tuple[int, Ids, Nats]]:
        targets = sum(w.tokens - 1 for w in windows)

        def progress(_: int, parts: int) -> None:
            advance(targets / parts)

        sequences = [w.read() for w in windows]
        length = max(map(len, sequences))
        # The model is causal: padding on the right changes nothing before it.
        stacked = np.stack([padded(ids, length) for ids in sequences])
        tokens = torch.from_numpy(stacked.astype(np.int64)).to(self.device)
        with autocast_for(self.precision, self.device):
            found = forward_long(self.model, tokens, want="log_likelihood", memory_limit=self.limit, progress=progress)
        rows = -found.cpu().numpy()
        for window, ids, row in zip(windows, sequences, rows, strict=True):
            yield window.key, ids[1:], row[: len(ids) - 1]


def _passes(windows: Iterable[Window], config: HyenaDNAConfig, tokens: int, limit: int | None) -> Iterator[Pass]:
    """Consecutive windows that make up at most so many tokens and fit into the limit; at least one."""
    current: Pass = []
    longest = 0
    for window in windows:
        longest = max(longest, window.tokens)
        size = len(current) + 1
        full = longest * size > tokens or (limit is not None and _need(config, longest, size).total(1) > limit)
        if current and full:
            yield current
            current, longest = [], window.tokens
        current.append(window)
    if current:
        yield current


@cache
def _need(config: HyenaDNAConfig, seqlen: int, batch: int) -> MemoryEstimate:
    return memory_estimate(config, seqlen, batch=batch, want="log_likelihood")


def load_model(checkpoint: str | None, device: str = "cpu") -> HyenaDNA:
    """A language model in evaluation mode on a device.

    Args:
        checkpoint: A file or folder in any format, the name of a packaged model, or None for the first of them.
        device: auto, cpu or cuda.
    Raises: UserError: no such checkpoint, or it is a classifier.
    """
    where = resolve_device(device)
    named = PACKAGED[0] if checkpoint is None else str(checkpoint)
    packaged = named in PACKAGED and (checkpoint is None or not Path(named).exists())
    if not packaged and not Path(named).exists():
        names = ", ".join(PACKAGED)
        raise UserError(
            f"checkpoint={named}: there is no such file or folder, and no packaged model ({names}) has that name"
        )
    model = HyenaDNA.from_checkpoint(str(files("farfield.models").joinpath(named)) if packaged else named)
    if model.head is not None:
        raise UserError(
            f"checkpoint={named}: a classifier of {model.config.n_classes} classes; a language model is accepted"
        )
    return model.to(where).eval()


def weights_digest(model: HyenaDNA) -> bytes:
    """Names one model: the same shape and weights give the same bytes."""
    digest = hashlib.sha256(repr(model.config).encode())
    for tensor in model.state_dict().values():
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.digest()


class Notes:
    """What an interrupted verb has done so far: one line of numbers a key, in a file named after the question.

    Args:
        run_folder: Where it lies.
        question: All that decides the numbers; another one must not go on with these notes.
    Raises: UserError: the folder holds notes of another question.
    """

    def __init__(self, run_folder: Path, question: bytes) -> None:
        self.path = run_folder / f"notes-{hashlib.sha256(question).hexdigest()[:16]}.jsonl"
        if not self.path.exists() and any(run_folder.glob("notes-*.jsonl")):
            raise UserError(
                f"resume={run_folder}: that run read other sequences, or another model, window, strand, policy or"
                " precision; go on with the same ones, or start a new run without resume"
            )

    def lines(self) -> dict[int, dict[str, float]]:
        """The numbers noted, by key."""
        return {line["step"]: line for line in read_metrics(self.path)}

    @contextmanager
    def open(self) -> Iterator[Callable[[int, dict[str, float]], None]]:
        """Yields the function that notes the numbers of a key; keys come in rising order.

        Raises: Interrupted: Ctrl-C or SIGTERM came; what was noted is on disk.
        """
        log = MetricsLog(self.path, last_step=sys.maxsize)
        try:
            with terminable():
                yield log.log
        except KeyboardInterrupt as stop:
            log.flush()
            signum = stop.args[0] if stop.args else signal.SIGINT
            raise Interrupted(signum, self.path.parent, len(self.lines()), "result") from None
        finally:
            log.close()


def result_path(out: str | None, default: Path, *, folder: bool = False) -> Path:
    """The file (or folder) to write, looked at before the work begins; nothing is made.

    Raises: UserError: something else has that name, or nothing can be written there.
    """
    path = default if out is None else Path(str(out))
    if path.exists() and path.is_dir() != folder:
        came, accepted = ("a folder", "a file") if path.is_dir() else ("a file", "a folder")
        raise UserError(f"out={out}: that is {came}, {accepted} is accepted; choose another name")
    above = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not os.access(above, os.W_OK) or not (above.is_dir() or above == path):
        raise UserError(f"out={out}: nothing can be written in {above}; choose another place")
    return path


@contextmanager
def progress_bar(what: str, total: float, unit: str) -> Iterator[Callable[[float], None]]:
    """A bar with rate and time left on standard error, a line every half minute where that is no terminal.

    Yields: The function that advances it by so many units.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.finished_speed or task.speed or 0:,.0f} {unit}/s")

    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), TextColumn("{task.percentage:3.0f}%"), Rate(), TimeRemainingColumn())
    began = told = time.monotonic()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        done = 0.0

        def advance(units: float) -> None:
            nonlocal done, told
            done += units
            bar.update(task, completed=done)
            now = time.monotonic()
            if not console.is_terminal and now - told > SECONDS_BETWEEN_LINES:
                told = now
                rate = done / (now - began)
                left = f"{(total - done) / rate:,.0f} s left"
                print(f"{what}: {done / total:.0%}, {rate:,.0f} {unit}/s, {left}", file=sys.stderr, flush=True)

        yield advance
