"""BM25 against its formula, word by word."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farfield.apps.retrieval.bm25 import BM25, WORD, aligned, folded, query_words, words
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
    assert words("Foo_bar's 3D-Ünïcode, Ёж 東京!") == ["foo", "bar", "s", "3d", "unicode", "еж", "東京"]


def test_a_word_is_one_however_its_accents_and_ligatures_are_written() -> None:
    for text in ("CAFÉ efficient", "cafe\u0301 e\ufb03cient", "Café ｅｆｆｉｃｉｅｎｔ"):
        assert words(text) == ["cafe", "efficient"]
    # Marks that are letters of their script stay.
    assert words("が 각") == ["が", "각"]


@given(st.text(st.characters(max_codepoint=0x2BFF), max_size=40))
def test_characters_are_folded_in_their_place_or_not_at_all(text: str) -> None:
    there = aligned(text)
    assert words(text) == WORD.findall(folded(text))
    assert there is None or (len(there) == len(text) and WORD.findall(there) == words(text))


def test_most_texts_are_folded_in_their_place() -> None:
    assert aligned("Café ‘Ünï’ → …") == "cafe  uni     "
    assert aligned("eﬃcient") is aligned("cafe\u0301") is aligned("Ёж") is aligned("½") is None


@pytest.mark.parametrize("other", ["", "é"])
def test_a_run_without_end_is_cut_alike_in_text_and_query(other: str) -> None:
    assert [len(word) for word in words("x" * 300 + " " + other)][:3] == [128, 128, 44]
    assert query_words("x" * 300 + other) == list(dict.fromkeys(words("x" * 300 + other)))


def test_a_query_has_1024_different_words_at_most() -> None:
    assert len(query_words(" ".join(f"w{i % 5000}" for i in range(9000)))) == 1024


def test_a_corpus_may_be_empty_and_settings_may_not_be_absurd() -> None:
    assert BM25([]).scores("moon").shape == (0,)
    assert not BM25([""]).scores("moon").any()
    with pytest.raises(UserError, match="b=2"):
        BM25(TEXTS, b=2)
