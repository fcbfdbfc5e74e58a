"""Token ids equal the published ones; policies and counts are explicit."""

import ast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farfield.apps.genomics.tokenizer import BASES, COMPLEMENT, PAD, TOKENS, UNK, Tokenizer
from farfield.apps.training import UserError
from tests.golden import golden

SPECIALS = {"standalone": "cls_sep", "main_repo": "sep"}


@pytest.fixture(params=list(SPECIALS))
def published(request) -> tuple[dict, str]:
    return golden("hyenadna", "tokenizer")[1][request.param], SPECIALS[request.param]


def test_vocabulary_is_the_published_one(published):
    assert {token: i for i, token in enumerate(TOKENS)} == published[0]["vocab"]


def test_strict_ids_are_the_published_ids(published):
    facts, specials = published
    strict = Tokenizer("strict")
    for text, expected in facts["default"].items():
        assert strict.encode(text, specials).tolist() == expected["input_ids"], text
    for text, expected in facts["add_special_tokens_false"].items():
        assert strict.encode(text).tolist() == expected["input_ids"], text


def test_truncation_and_padding_are_the_published_ones(published):
    facts, specials = published
    strict = Tokenizer("strict")
    seen = 0
    for case, texts in facts.items():
        if not case.startswith("max_length"):
            continue
        _, side, add, length = (part.split("=")[-1] for part in case.split("|"))
        for text, expected in texts.items():
            if not expected["input_ids"]:
                continue
            ids = strict.encode(text, specials if add == "True" else "none", int(length))
            padded, mask = strict.pad([ids], int(length), side)
            assert padded[0].tolist() == expected["input_ids"], (case, text)
            assert mask[0].astype(int).tolist() == expected["attention_mask"], (case, text)
            seen += 1
    assert seen > 30


def test_decoding_is_the_published_one(published):
    for ids, text in published[0]["decode"].items():
        assert Tokenizer().decode(ast.literal_eval(ids)) == text


@given(st.text(alphabet="ACGTNacgtn", max_size=200))
def test_upper_policy_round_trips_to_upper_case(text):
    assert Tokenizer().decode(Tokenizer().encode(text)) == text.upper()


@given(st.text(max_size=100))
def test_every_character_is_one_token(text):
    for policy in ("upper", "strict", "ambiguous_n"):
        ids = Tokenizer(policy).encode(text)
        assert len(ids) == len(text)
        assert sum(Tokenizer(policy).unknown(text).values()) == int((ids == UNK).sum())


def test_policies_differ_where_they_say():
    text = "ACgtRyN-"
    assert Tokenizer("upper").encode(text).tolist() == [7, 8, 9, 10, 6, 6, 11, 6]
    assert Tokenizer("strict").encode(text).tolist() == [7, 8, 6, 6, 6, 6, 11, 6]
    assert Tokenizer("ambiguous_n").encode(text).tolist() == [7, 8, 9, 10, 11, 11, 11, 6]


def test_symbols_that_become_unknown_are_counted():
    assert Tokenizer().unknown("acgtRRy-") == {"R": 2, "-": 1, "y": 1}
    assert Tokenizer("strict").unknown(b"acgA") == {"a": 1, "c": 1, "g": 1}


def test_complement_is_its_own_inverse_and_pairs_the_bases():
    np.testing.assert_array_equal(COMPLEMENT[COMPLEMENT], np.arange(256))
    assert Tokenizer().decode(COMPLEMENT[list(BASES)]) == "TGCA"
    assert COMPLEMENT[PAD] == PAD


def test_mistakes_are_named():
    with pytest.raises(UserError, match="strict"):
        Tokenizer("lower")
    with pytest.raises(UserError, match="12"):
        Tokenizer().decode([12])
    with pytest.raises(UserError, match="length=2"):
        Tokenizer().pad([np.zeros(3, np.uint8)], 2)
