"""Windows cover every token, and characters run from first token to last."""

from itertools import accumulate, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farfield.apps.retrieval import bm25
from farfield.apps.retrieval.windows import Span, check_window, cut, fullest
from farfield.apps.training.errors import UserError


def test_windows_of_a_known_text() -> None:
    offsets = np.array([[0, 2], [3, 5], [5, 6], [8, 9], [9, 11]])
    assert cut(offsets, 12, 2) == [Span(0, 2, 0, 5), Span(2, 4, 5, 9), Span(4, 5, 9, 11)]
    assert cut(offsets, 12, 3, 1) == [Span(0, 3, 0, 6), Span(2, 5, 5, 11)]
    assert cut(offsets, 12, 9) == [Span(0, 5, 0, 11)]
    assert cut(np.empty((0, 2), dtype=np.int64), 7, 4) == [Span(0, 0, 0, 7)]


@given(st.integers(1, 60), st.integers(1, 20), st.data())
def test_every_token_is_in_a_window_and_none_is_only_overlap(n: int, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    starts = np.cumsum(np.full(n, 3))
    spans = cut(np.stack([starts, starts + 2], axis=1), 3 * n + 3, size, overlap)
    assert {t for s in spans for t in range(s.first, s.last)} == set(range(n))
    assert all(0 < s.last - s.first <= size for s in spans)
    assert all(b.first == a.first + size - overlap and b.last > a.last for a, b in pairwise(spans))


@pytest.mark.parametrize(("size", "overlap"), [(0, 0), (9, 0), (4, 4), (4, -1), (True, 0), (2.5, 0)])
def test_windows_that_make_no_progress_are_refused(size: int, overlap: int) -> None:
    with pytest.raises(UserError, match="is accepted"):
        check_window(size, overlap, 8)


def test_the_fullest_window_is_that_whose_rare_words_are_worth_most() -> None:
    text = "the ocean, the sea. Copper Océan tigers; copper ocean-tiger"
    spans = [(0, 19), (20, 40), (41, len(text))]
    worth = {"the": 0.01, "ocean": 1.0, "copper": 1.5, "tiger": 2.0, "absent": 3.0}
    assert fullest(text, spans, worth) == 2
    assert fullest(text, spans[:2], worth) == 1
    # A part of a longer word is no occurrence, equal windows give the first, and no word at all too.
    assert fullest("tigers tiger tiger", [(0, 6), (7, 12), (13, 18)], worth) == 1
    assert fullest("nothing here", [(0, 7), (8, 12)], {}) == 0


@given(
    words=st.lists(st.sampled_from(["sea", "Séa", "seas", "or", "cat", "o", "ﬃ", "-"]), min_size=1, max_size=40),
    worth=st.dictionaries(st.sampled_from(["sea", "seas", "or", "cat", "ffi"]), st.sampled_from([0.5, 1.0, 1.1, 3.0])),
    size=st.integers(1, 9),
    overlap=st.integers(0, 8),
)
def test_no_window_is_fuller_than_the_fullest(
    words: list[str], worth: dict[str, float], size: int, overlap: int
) -> None:
    text, ends = " ".join(words), list(accumulate(len(word) + 1 for word in words))
    places = [(end - 1 - len(word), end - 1) for word, end in zip(words, ends, strict=True)]
    spans = [(one.start, one.end) for one in cut(np.array(places), len(text), size, min(overlap, size - 1))]
    sums = [sum(worth.get(word, 0) for word in set(bm25.words(text[start:stop]))) for start, stop in spans]
    found = fullest(text, spans, worth)
    assert sums[found] == pytest.approx(max(sums))
    assert all(one < sums[found] + 1e-9 for one in sums[:found])
