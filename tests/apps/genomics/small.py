"""Small genomes and models, and verbs run as the command line runs them."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from farfield.apps.cli.compose import composed
from farfield.apps.genomics.checkpoint import save
from farfield.apps.genomics.hyenadna import HyenaDNA, HyenaDNAConfig

ROOT = Path(__file__).parents[3]


def random_bases(length: int, seed: int = 0) -> str:
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), length))


def structured_bases(length: int, seed: int = 0, sure: float = 0.85) -> str:
    """A chain of order 3: every three bases have one likely successor."""
    random = np.random.default_rng(seed)
    successors = random.permutation(64) % 4
    sequence = [0, 1, 2]
    for likely, other in zip(random.random(length) < sure, random.integers(0, 4, length), strict=True):
        context = 16 * sequence[-3] + 4 * sequence[-2] + sequence[-1]
        sequence.append(int(successors[context]) if likely else int(other))
    return "".join("ACGT"[base] for base in sequence[:length])


def write_fasta(path: Path, sequences: dict[str, str]) -> str:
    path.write_text("".join(f">{name} of a test\n{sequence}\n" for name, sequence in sequences.items()))
    return str(path)


def tiny_model(l_max: int = 130, seed: int = 0, **changes: Any) -> HyenaDNA:
    """A model whose predictions differ from base to base."""
    torch.manual_seed(seed)
    model = HyenaDNA(HyenaDNAConfig(**{"d_model": 16, "n_layer": 1, "d_inner": 32, "l_max": l_max} | changes)).eval()
    with torch.no_grad():
        model.backbone.table.mul_(20)
    return model


def saved_model(folder: Path, **changes: Any) -> str:
    return str(save(tiny_model(**changes), folder).parent)


def settings(verb: str, *words: str, **values: Any) -> dict[str, Any]:
    """The recipe of a verb with words (key=value, the value as JSON or text) and values changed.

    The command line does the same, twenty times slower.
    """
    given: dict[str, Any] = copy.deepcopy(_recipe(verb))
    for word in words:
        key, _, text = word.partition("=")
        *groups, last = key.split(".")
        group = given
        for name in groups:
            group = group[name]
        assert last in group, word
        try:
            group[last] = json.loads(text)
        except ValueError:
            group[last] = text
    assert values.keys() <= given.keys()
    return given | values


@cache
def _recipe(verb: str) -> dict[str, Any]:
    return composed("genomics", verb, ["fasta=given"])


def disturbed(folder: Path, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Command lines run one after the other in a folder and ended before their time; see disturb_verb."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / ".typing"), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.apps.genomics.disturb_verb", json.dumps(runs)]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    ends: list[dict[str, Any]] = json.loads(done.stdout)
    return ends
