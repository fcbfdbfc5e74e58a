"""Which runs a simulation consists of: parameters, seeds, and to which split each whole run belongs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from farfield.apps.training import UserError

SAMPLING = ("listed", "uniform", "log")
SPLITS = ("valid", "test", "extrapolate")


@dataclass(frozen=True)
class Run:
    """One run: its number, its split, the value of every setting that may differ."""

    number: int
    split: str
    parameters: Mapping[str, Any]

    @property
    def name(self) -> str:
        """run-0007."""
        return f"run-{self.number:04d}"

    def generator(self, seed: int) -> np.random.Generator:
        """Random numbers of this run alone: they do not depend on how many runs there are."""
        return np.random.default_rng([seed, self.number])


def plan(swept: Mapping[str, list[Any]], runs: int, sampling: str, split: Mapping[str, float], seed: int) -> list[Run]:
    """The runs of a sweep.

    Args:
        swept: Values of each setting.
        sampling: listed: the runs take all combinations in turn, the last setting fastest. uniform, log: each run draws
            between the smallest and the largest value.
        runs: How many.
        split: Shares of the runs: valid and test are drawn at random, extrapolate are those with the largest values of
            the first setting that differs. The rest trains.
        seed: Decides the draws.
    Raises: UserError: a setting is wrong.
    """
    if not isinstance(runs, int) or isinstance(runs, bool) or not 1 <= runs <= 10_000:
        raise UserError(f"runs={runs}: a whole number from 1 to 10000 is accepted")
    if sampling not in SAMPLING:
        raise UserError(f"sampling={sampling}: {', '.join(SAMPLING)} are accepted")
    for name, values in swept.items():
        if not isinstance(values, list) or not values:
            raise UserError(
                f"equation.{name}={values}: a list of values is accepted, for example equation.{name}=[{values}]"
            )
    parameters = _listed(swept, runs) if sampling == "listed" else _drawn(swept, runs, sampling, seed)
    splits = _splits(parameters, split, seed)
    return [Run(i, s, p) for i, (s, p) in enumerate(zip(splits, parameters, strict=True))]


def _listed(swept: Mapping[str, list[Any]], runs: int) -> list[dict[str, Any]]:
    combinations = itertools.cycle(itertools.product(*swept.values()))
    count = math.prod(map(len, swept.values()))
    if runs < count:
        raise UserError(
            f"runs={runs}: the lists of values have {count} combinations; ask for at least as many runs, or"
            " sampling=uniform"
        )
    return [dict(zip(swept, values, strict=True)) for values, _ in zip(combinations, range(runs), strict=False)]


def _drawn(swept: Mapping[str, list[Any]], runs: int, sampling: str, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng([seed, 1, 2**31])
    found: list[dict[str, Any]] = [{} for _ in range(runs)]
    for name, values in swept.items():
        share = rng.uniform(size=runs)
        low, high = (min(values), max(values)) if len(values) > 1 else (values[0], values[0])
        for run, s in zip(found, share, strict=True):
            if low == high:
                run[name] = low
            elif isinstance(low, str) or (sampling == "log" and low <= 0):
                raise UserError(
                    f"equation.{name}={values}: sampling={sampling} needs numbers{' above 0' * (sampling == 'log')}"
                )
            else:
                run[name] = float(low * (high / low) ** s if sampling == "log" else low + (high - low) * s)
    return found


def _splits(parameters: list[dict[str, Any]], shares: Mapping[str, float], seed: int) -> list[str]:
    runs = len(parameters)
    if set(shares) != set(SPLITS):
        raise UserError(f"split={dict(shares)}: shares of {', '.join(SPLITS)} are accepted; the rest trains")
    for name, share in shares.items():
        if not isinstance(share, int | float) or isinstance(share, bool) or not 0 <= share < 1:
            raise UserError(f"split.{name}={share}: a share of the runs from 0 to below 1 is accepted")
    counts = {name: math.floor(share * runs + 0.5) for name, share in shares.items()}
    if sum(counts.values()) >= runs and runs > 1:
        raise UserError(f"split={dict(shares)}: of {runs} runs none is left to train on; lower the shares")
    splits = ["train"] * runs
    if runs == 1:
        return splits
    far: list[int] = []
    if counts["extrapolate"]:
        differing = [n for n in parameters[0] if len({p[n] for p in parameters if not isinstance(p[n], str)}) > 1]
        if not differing:
            raise UserError(
                f"split.extrapolate={shares['extrapolate']}: all runs have the same parameters; list several"
            )
        order = sorted(range(runs), key=lambda i: parameters[i][differing[0]])
        far = order[-counts["extrapolate"] :]
    near = np.random.default_rng([seed, 2, 2**31]).permutation([i for i in range(runs) if i not in far])
    for i in far:
        splits[i] = "extrapolate"
    for name, chosen in (("valid", near[: counts["valid"]]), ("test", near[counts["valid"] :][: counts["test"]])):
        for i in chosen:
            splits[i] = name
    return splits
