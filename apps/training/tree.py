"""Nested Python values as JSON plus named tensors, types preserved; never pickle.

JSON holds what it can say itself (None, bool, int, finite float, str, list, dict with str keys). Anything else is an
object with one reserved key: `{"!": "tuple", "v": [...]}`.
"""

from __future__ import annotations

import base64
import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

TAG = "!"


def encode(value: Any, name: str = "state") -> tuple[Any, dict[str, torch.Tensor]]:
    """Split a tree into JSON and tensors.

    Args:
        value: None, bool, int, float, complex, str, bytes, Path, tensor, numpy scalar or array, torch dtype, device or
            size, and lists, tuples, sets, dicts of these; keys of dicts may be any of the scalars and tuples of them.
        name: What the tree is called in messages.

    Returns:
        (json, tensors): json can be written with allow_nan=False; tensors are contiguous, on the CPU, share no memory.

    Raises:
        TypeError: A value of another type, or one that contains itself; the message names its path in the tree.
    """
    encoder = _Encoder()
    return encoder.encode(value, name), encoder.tensors


def decode(node: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """The tree that `encode` split.

    Args:
        node: First value that encode returned.
        tensors: Second value that encode returned.

    Returns:
        Equal values of equal types.

    Raises:
        ValueError: The JSON has a tag that this version does not know.
        KeyError: A tensor that the JSON names is missing.
    """
    if isinstance(node, list):
        return [decode(item, tensors) for item in node]
    if not isinstance(node, dict):
        return node
    if TAG not in node:
        return {key: decode(item, tensors) for key, item in node.items()}
    kind: str = node[TAG]
    v: Any = node.get("v")
    if kind == "tensor":
        return tensors[v]
    if kind == "complex_tensor":
        return torch.view_as_complex(tensors[v])
    if kind == "ndarray":
        data = tensors[v].numpy().tobytes()
        return np.frombuffer(data, dtype=np.dtype(node["dtype"])).reshape(node["shape"]).copy()
    if kind == "numpy":
        return np.frombuffer(base64.b64decode(v), dtype=np.dtype(node["dtype"]))[0]
    if kind in ("dict", "odict"):
        pairs = [(decode(key, tensors), decode(item, tensors)) for key, item in v]
        return OrderedDict(pairs) if kind == "odict" else dict(pairs)
    if kind in _SEQUENCES:
        return _SEQUENCES[kind](decode(item, tensors) for item in v)
    if kind in _SCALARS:
        return _SCALARS[kind](v)
    raise ValueError(f"tag {kind!r} is unknown: the checkpoint was written by a newer version")


_SEQUENCES: dict[str, Any] = {"tuple": tuple, "set": set, "frozenset": frozenset, "size": torch.Size}
_SCALARS: dict[str, Any] = {
    "float": float,
    "complex": lambda v: complex(float.fromhex(v[0]), float.fromhex(v[1])),
    "bytes": base64.b64decode,
    "path": Path,
    "dtype": lambda v: getattr(torch, v),
    "device": torch.device,
}


class _Encoder:
    """Walks one tree and collects its tensors."""

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._open: set[int] = set()

    def encode(self, value: Any, where: str) -> Any:
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {TAG: "float", "v": repr(value)}
        if isinstance(value, (list, tuple, dict, set, frozenset)):
            if id(value) in self._open:
                raise TypeError(f"{where} contains itself and cannot be written to a checkpoint")
            self._open.add(id(value))
            try:
                return self._container(value, where)
            finally:
                self._open.discard(id(value))
        return self._leaf(value, where)

    def _container(self, value: Any, where: str) -> Any:
        kind = type(value)
        if kind is list:
            return [self.encode(item, f"{where}[{i}]") for i, item in enumerate(value)]
        if kind is dict and TAG not in value and all(type(key) is str for key in value):
            return {key: self.encode(item, f"{where}[{key!r}]") for key, item in value.items()}
        if kind in (dict, OrderedDict):
            pairs = [[self._key(key, where), self.encode(v, f"{where}[{key!r}]")] for key, v in value.items()]
            return {TAG: "dict" if kind is dict else "odict", "v": pairs}
        for name, sequence in _SEQUENCES.items():
            if kind is sequence:
                return {TAG: name, "v": [self.encode(item, f"{where}[{i}]") for i, item in enumerate(value)]}
        raise self._foreign(value, where)

    def _key(self, key: Any, where: str) -> Any:
        if isinstance(key, torch.Tensor):
            raise self._foreign(key, f"a key of {where}")
        return self.encode(key, f"key {key!r} of {where}")

    def _leaf(self, value: Any, where: str) -> Any:
        if isinstance(value, torch.Tensor):
            # safetensors has no complex128: complex tensors travel as pairs of reals.
            kind = "complex_tensor" if value.is_complex() else "tensor"
            return {TAG: kind, "v": self._tensor(value, where)}
        if isinstance(value, (np.ndarray, np.generic)):
            return self._numpy(value, where)
        scalar = type(value)
        if scalar is complex:
            return {TAG: "complex", "v": [value.real.hex(), value.imag.hex()]}
        if scalar is bytes:
            return {TAG: "bytes", "v": base64.b64encode(value).decode()}
        if isinstance(value, Path):
            return {TAG: "path", "v": str(value)}
        if scalar is torch.dtype:
            return {TAG: "dtype", "v": str(value).removeprefix("torch.")}
        if scalar is torch.device:
            return {TAG: "device", "v": str(value)}
        raise self._foreign(value, where)

    def _tensor(self, value: torch.Tensor, where: str) -> str:
        if value.layout is not torch.strided or value.is_quantized or value.is_meta:
            raise TypeError(
                f"{where} is a {value.layout} tensor on {value.device}; only dense ones can be written to a checkpoint"
            )
        name = f"t{len(self.tensors)}"
        plain = value.detach().resolve_conj().resolve_neg()
        plain = torch.view_as_real(plain) if plain.is_complex() else plain
        self.tensors[name] = plain.to("cpu", copy=True).contiguous()
        return name

    def _numpy(self, value: Any, where: str) -> Any:
        if type(value) not in (np.ndarray, value.dtype.type) or value.dtype.hasobject or value.dtype.names:
            raise self._foreign(value, where)
        if isinstance(value, np.generic):
            return {TAG: "numpy", "dtype": value.dtype.str, "v": base64.b64encode(value.tobytes()).decode()}
        raw = np.frombuffer(np.ascontiguousarray(value).tobytes(), dtype=np.uint8).copy()
        name = f"t{len(self.tensors)}"
        self.tensors[name] = torch.from_numpy(raw)
        return {TAG: "ndarray", "dtype": value.dtype.str, "shape": list(value.shape), "v": name}

    @staticmethod
    def _foreign(value: Any, where: str) -> TypeError:
        return TypeError(
            f"{where} is a {type(value).__module__}.{type(value).__qualname__} and cannot be written to a checkpoint;"
            " accepted: None, bool, int, float, str, bytes, tensors, numpy values, lists, tuples, sets, dicts."
            " Keep a plain value there, or leave it out of the saved state"
        )
