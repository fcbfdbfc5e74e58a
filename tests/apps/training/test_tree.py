"""Trees come back with equal values of equal types, through real JSON."""

import json
import math
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from farfield.apps.training.tree import decode, encode


def same(a, b):
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
    if isinstance(a, (np.ndarray, np.generic)):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a.items(), b.items(), strict=True))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and math.isnan(a):
        return math.isnan(b)
    if isinstance(a, float):
        return a == b and math.copysign(1, a) == math.copysign(1, b)
    return a == b


def round_trip(value):
    node, tensors = encode(value)
    return decode(json.loads(json.dumps(node, allow_nan=False)), tensors)


DTYPES = [torch.float32, torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool, torch.complex64]
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.complex_numbers(allow_nan=False)
)
keys = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
    lambda inner: st.lists(inner, max_size=2).map(tuple),
    max_leaves=3,
)
tensors = st.builds(
    lambda shape, dtype: (torch.randn(shape) * 9).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(DTYPES),
)
arrays = st.builds(
    lambda shape, dtype: (np.random.randn(*shape) * 9).astype(dtype),
    st.lists(st.integers(0, 3), min_size=1, max_size=3),
    st.sampled_from(["f4", ">f8", "u4", "i1", "?", "U3", "M8[s]"]),
)
numbers = st.sampled_from([np.float32("nan"), np.float64(0.1), np.int64(-3), np.bool_(True), np.uint8(255)])
leaves = st.one_of(
    scalars, tensors, arrays, numbers, st.sampled_from([torch.bfloat16, torch.device("cuda:1"), Path("a/b")])
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(), inner, max_size=4),
        st.dictionaries(keys, inner, max_size=4),
        st.dictionaries(keys, inner, max_size=4).map(OrderedDict),
        st.lists(st.integers(), max_size=3).map(set),
    ),
    max_leaves=15,
)


@given(trees)
@settings(max_examples=150, deadline=None)
def test_any_tree_comes_back(tree):
    assert same(tree, round_trip(tree))


def test_the_reserved_key_is_a_key_like_any_other():
    tree = {"!": "tuple", "v": [1]}
    assert same(tree, round_trip(tree))


def test_keys_keep_their_type_and_order():
    tree = {1: "int", "1": "text", (1, 2.5): None, None: 0, -0.0: 1}
    assert same(tree, round_trip(tree))


def test_strided_conjugate_and_graph_tensors_come_back_plain():
    base = torch.randn(4, 6, dtype=torch.complex64)
    for tensor in (base.t(), base[:, ::2], base.conj(), base.imag, torch.randn(3, requires_grad=True)):
        back = round_trip(tensor)
        assert torch.equal(back, tensor.detach())
        assert back.is_contiguous()
        assert not back.requires_grad


def test_the_tree_is_a_copy():
    tensor = torch.zeros(3)
    node, saved = encode([tensor])
    tensor.add_(1)
    assert torch.equal(decode(node, saved)[0], torch.zeros(3))


class Foreign:
    pass


@pytest.mark.parametrize(
    ("tree", "path"),
    [
        ({"a": [1, {"b": Foreign()}]}, r"state\['a'\]\[1\]\['b'\] is a .*Foreign"),
        ((lambda: 0,), r"state\[0\] is a builtins.function"),
        ({Foreign(): 1}, r"key .*Foreign.* of state"),
        ({"a": torch.eye(3).to_sparse()}, r"state\['a'\] is a torch.sparse_coo tensor"),
        ({"a": np.array([None])}, r"state\['a'\] is a numpy.ndarray"),
        ({"a": int}, r"state\['a'\] is a builtins.type"),
    ],
)
def test_a_foreign_value_is_named_by_its_path(tree, path):
    with pytest.raises(TypeError, match=path):
        encode(tree)


def test_a_tree_that_contains_itself_is_refused():
    tree: list = [1]
    tree.append({"again": tree})
    with pytest.raises(TypeError, match=r"state\[1\]\['again'\] contains itself"):
        encode(tree)


def test_a_tag_of_a_newer_version_is_refused():
    with pytest.raises(ValueError, match="newer version"):
        decode({"!": "quaternion", "v": 1}, {})
