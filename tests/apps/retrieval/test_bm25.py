"""BM25 against its formula, word by word."""

import math

import numpy as np
import pytest

from farfield.apps.retrieval.bm25 import BM25, words
from farfield.apps.training.errors import UserError

TEXTS = ["The river, the stone.", "Stone bread bread moon", "", "moon"]


def test_scores_are_the_formula() -> None:
    model = BM25(TEXTS)
    lengths = np.array([4, 4, 0, 1])

    def part(tf: int, df: int, i: int) -> float:
        idf = math.log(1 + (4 - df + 0.5) / (df + 0.5))
        return idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * lengths[i] / 2.25))

    expected = [part(1, 2, 0), part(1, 2, 1) + part(2, 1, 1), 0, 0]
    assert model.scores("stone, BREAD?") == pytest.approx(expected)


def test_words_of_a_query_count_once_and_unknown_ones_not() -> None:
    model = BM25(TEXTS)
    assert np.array_equal(model.scores("moon moon tiger"), model.scores("moon"))
    assert not model.scores("tiger").any()
    assert not model.scores("").any()


def test_words_are_letters_and_digits_of_any_script() -> None:
    assert words("Foo_bar's 3D-Ünïcode, Ёж 東京!") == ["foo", "bar", "s", "3d", "ünïcode", "ёж", "東京"]


def test_a_corpus_may_be_empty_and_settings_may_not_be_absurd() -> None:
    assert BM25([]).scores("moon").shape == (0,)
    assert not BM25([""]).scores("moon").any()
    with pytest.raises(UserError, match="b=2"):
        BM25(TEXTS, b=2)
