"""The tokenizer: bases a second on one core, for bytes and str, mixed case, all policies."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.harness import Bench, Row, main, measure_together, shape
from farfield.apps.genomics.tokenizer import TOKENS, UNK, Tokenizer

# What a policy must give for each symbol, spelt out so that a wrong table is not timed.
SYMBOLS = b"ACGTNacgtnRY"


def expected_id(symbol: int, policy: str) -> int:
    """The id of a symbol by the published vocabulary and the policy's words."""
    letter = chr(symbol) if policy == "strict" else chr(symbol).upper()
    if policy == "ambiguous_n" and letter in "RYKMSWBDHV":
        letter = "N"
    return TOKENS.index(letter) if letter in "ACGTN" else UNK


def by_dictionary(sequence: str) -> np.ndarray:
    """One look-up a character in a Python dictionary, as character tokenizers usually do."""
    ids = {token: i for i, token in enumerate(TOKENS) if len(token) == 1}
    return np.array([ids.get(c, UNK) for c in sequence.upper()], np.uint8)


def as_tensor(ids: np.ndarray) -> torch.Tensor:
    """The ids without a copy; they are read only, which torch warns about and the harness respects."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(ids)


def cases(bench: Bench) -> Iterator[Row]:
    """Bases to ids on one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    length = 2**16 if bench.quick else 2**22
    raw = np.frombuffer(SYMBOLS, np.uint8)[np.random.default_rng(0).integers(0, len(SYMBOLS), length)].tobytes()
    text = raw.decode()
    for policy in ("upper", "strict", "ambiguous_n"):
        tokenizer = Tokenizer(policy)
        table = np.zeros(256)
        for symbol in SYMBOLS:
            table[symbol] = expected_id(symbol, policy)
        providers = {
            "farfield-bytes": lambda t=tokenizer: as_tensor(t.encode(raw)),
            "farfield-str": lambda t=tokenizer: as_tensor(t.encode(text)),
        }
        if policy == "upper":
            providers["python-dict"] = lambda: as_tensor(by_dictionary(text))
        times = measure_together(
            providers,
            expected=torch.from_numpy(table[np.frombuffer(raw, np.uint8)]),
            tolerance=0.0,
            seconds=bench.seconds,
        )
        for provider, took in times.items():
            rate = length / took.p50_ms / 1e3
            where = shape(L=length, policy=policy)
            yield bench.row("tokenizer", provider, "fwd", where, "uint8", times=took, moved_bytes=2 * length)
            yield bench.row("tokenizer", provider, "fwd", where, "uint8", metric="MB/s", value=rate)
    torch.set_num_threads(threads)


if __name__ == "__main__":
    main("tokenizer", cases)
