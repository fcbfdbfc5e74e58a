import hashlib
import json

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farfield.apps.retrieval import ann, clustering, inverted_lists, quick_scan
from farfield.apps.retrieval.exact import Chosen, scan
from farfield.apps.retrieval.quick_scan import QuickScan
from farfield.apps.retrieval.segment import Segment, sha256, write
from farfield.apps.retrieval.store import Damaged
from farfield.apps.retrieval.stored_rows import StoredRows

LISTED = ("hnsw", "ivf-flat", "ivf-pq")


def clusters(n, d, seed, centres=60):
    """Unit vectors of normal clusters that overlap."""
    fixed, rng = np.random.default_rng(0), np.random.default_rng(seed)
    middle = fixed.standard_normal((centres, d)) * np.arange(1, d + 1) ** -0.5
    x = middle[rng.integers(0, centres, n)] + 0.6 * rng.standard_normal((n, d)) * np.arange(1, d + 1) ** -0.5
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def blocks(vectors):
    rows = np.arange(len(vectors))
    for begin in range(0, len(vectors), 1000):
        some = rows[begin : begin + 1000]
        yield some, np.full(len(some), -2), vectors[some]


def recall(found, true):
    return np.mean([len(set(f) & set(t)) / len(t) for f, t in zip(found.tolist(), true.tolist(), strict=True)])


@pytest.fixture(scope="module")
def vectors():
    return clusters(6000, 96, seed=1)


@pytest.fixture(scope="module")
def queries():
    return clusters(60, 96, seed=2)


@pytest.fixture(scope="module", params=LISTED)
def built(request, vectors, tmp_path_factory):
    """A segment of each kind, opened from its files."""
    folder = tmp_path_factory.mktemp(request.param)
    name, digest = write(folder, blocks(vectors), d=96, encoder="0" * 64, kind=request.param)
    return Segment(folder / "segments" / name, digest)


def best(segment, queries, k, live=None, share=1.0):
    """The k best of a segment's proposals by their exact scores, as a view takes them."""
    found = np.full((len(queries), k), -1)
    for i, rows in enumerate(segment.propose(queries, k, live, share)):
        rows = rows[rows >= 0]
        order = np.argsort(-(segment.vectors[rows] @ queries[i]))[:k]
        found[i, : len(order)] = rows[order]
    return found


def test_each_kind_finds_nearly_all_of_the_best(built, vectors, queries):
    assert recall(best(built, queries, 10), scan(vectors, queries, 10)[1]) >= 0.98


@pytest.mark.parametrize("every", [10, 100])
def test_each_kind_finds_what_a_filter_leaves_and_nothing_else(built, vectors, queries, every):
    mask = np.zeros(len(vectors), np.bool_)
    mask[::every] = True
    found = best(built, queries, 10, Chosen(mask), 1 / every)
    assert mask[found[found >= 0]].all()
    assert recall(found, scan(vectors, queries, 10, live=mask)[1]) >= 0.95


def test_one_query_and_many_get_the_same_rows(built, queries):
    together = best(built, queries, 10)
    alone = np.concatenate([best(built, query[None], 10) for query in queries])
    assert recall(alone, together) >= 0.99


def test_more_are_asked_for_than_there_are(built, vectors, queries):
    rows = built.propose(queries[:2], 2 * len(vectors), None, 1.0)
    assert all(len(set(mine[mine >= 0].tolist())) == (mine >= 0).sum() for mine in rows)


def test_vectors_stay_in_their_file(built):
    # hnsw keeps them in the mapped index, the others in a file of their own.
    assert built.kind == "hnsw" or isinstance(built.vectors.base, np.memmap)


@pytest.mark.parametrize("file", ["index.faiss", "lists.bin"])
def test_a_flipped_byte_of_an_index_is_named(tmp_path, vectors, file):
    name, digest = write(tmp_path, blocks(vectors[:2000]), d=96, encoder="0" * 64, kind="ivf-pq")
    file = tmp_path / "segments" / name / file
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(Damaged, match=file.name):
        Segment(tmp_path / "segments" / name, digest)


def test_the_kind_follows_the_number_of_rows():
    assert [ann.choose("auto", n) for n in (0, 50_000, 50_001, 10**7)] == ["flat", "flat", "ivf-pq", "ivf-pq"]
    assert ann.choose("hnsw", 999) == "flat"
    assert ann.choose("hnsw", 1000) == "hnsw"


def test_codes_are_a_fraction_of_the_vectors(built):
    files = json.loads((built.path / "manifest.json").read_text())["files"]
    codes = sum(files[name]["bytes"] for name in ("index.faiss", "lists.bin") if name in files)
    assert built.kind != "ivf-pq" or codes < 0.4 * files["vectors.f32"]["bytes"]


def test_nothing_that_was_in_between_is_left(built):
    lists = set() if built.kind == "hnsw" else {"lists.bin", "vectors.f32"}
    assert {path.name for path in built.path.iterdir()} == {"index.faiss", "rows.i64", "manifest.json"} | lists


@pytest.mark.parametrize("m", [1, 8, 30, 31])
def test_codes_lie_as_faiss_packs_them(m):
    x = clusters(700, 2 * m, seed=8) if m != 31 else clusters(700, m, seed=8)
    index = faiss.IndexIVFPQFastScan(faiss.IndexFlatIP(x.shape[1]), x.shape[1], 3, m, 4, faiss.METRIC_INNER_PRODUCT)
    index.train(x)
    index.by_residual = False
    index.add(x)
    lists = faiss.downcast_InvertedLists(index.invlists)
    for one in range(3):
        rows = faiss.rev_swig_ptr(lists.get_ids(one), lists.list_size(one))
        packed = inverted_lists.fast_blocks(index.pq.compute_codes(x[rows]))
        assert len(packed) == -(-len(rows) // 32) * 32
        assert np.array_equal(faiss.rev_swig_ptr(lists.get_codes(one), packed.size), packed.ravel())


@pytest.mark.parametrize("kind", ["ivf-flat", "ivf-pq"])
def test_lists_that_are_mapped_answer_as_those_that_faiss_keeps_in_memory(
    kind, tmp_path, vectors, queries, monkeypatch
):
    # Few bytes at once: many looks at the codes.
    monkeypatch.setattr(inverted_lists, "AT_ONCE", 4096)
    name, digest = write(tmp_path, blocks(vectors), d=96, encoder="0" * 64, kind=kind)
    mapped = Segment(tmp_path / "segments" / name, digest)
    whole = faiss.read_index(str(mapped.path / "index.faiss"))
    assert whole.ntotal == len(vectors)
    whole.reset()
    whole.add(vectors)
    faiss.extract_index_ivf(whole).nprobe = 5
    scores, rows = whole.search(queries, 20)
    ours, found = mapped._ann.index.search(queries, 20, params=faiss.SearchParametersIVF(nprobe=5))
    # A row whose nearest two centres are equally near may lie in either.
    assert recall(found, rows) > 0.999
    np.testing.assert_allclose(ours, scores, atol=1e-4)


@pytest.mark.parametrize("kind", ["flat", "ivf-flat", "ivf-pq"])
def test_a_segment_of_format_1_is_still_read(kind, tmp_path, queries):
    vectors = clusters(12_000, 96, seed=9)
    name, digest = write(tmp_path, blocks(vectors), d=96, encoder="0" * 64, kind=kind)
    path = tmp_path / "segments" / name
    found = best(Segment(path, digest), queries, 10)
    about = json.loads((path / "manifest.json").read_text())
    assert about["format"] == 2
    if kind == "flat":
        (path / "scan.faiss").unlink()
        about["params"] = {}
    else:
        inside = faiss.read_index(str(path / "index.faiss"))
        inside.reset()
        inside.add(vectors)
        faiss.write_index(inside, str(path / "index.faiss"))
        (path / "lists.bin").unlink()
        about["files"]["index.faiss"] = {
            "bytes": (path / "index.faiss").stat().st_size,
            "sha256": sha256(path / "index.faiss"),
        }
    for file in ("lists.bin", "scan.faiss"):
        about["files"].pop(file, None)
    text = json.dumps(about | {"format": 1})
    (path / "manifest.json").write_text(text)
    old = Segment(path, hashlib.sha256(text.encode()).hexdigest())
    assert recall(best(old, queries, 10), found) > 0.999


@pytest.mark.parametrize("kind", LISTED)
def test_vectors_that_are_all_alike_can_be_indexed(kind, tmp_path):
    same = np.tile(clusters(1, 40, seed=3), (1200, 1))
    name, digest = write(tmp_path, blocks(same), d=40, encoder="0" * 64, kind=kind)
    rows = Segment(tmp_path / "segments" / name, digest).propose(same[:1], 10, None, 1.0)
    assert (rows >= 0).sum() >= 10


@pytest.mark.parametrize("n", [1, 37, 12_000])
@pytest.mark.parametrize("k", [1, 10, 60])
def test_quick_scan_is_exact(n, k):
    vectors, queries = clusters(n, 100, seed=4), clusters(5, 100, seed=5)
    found = QuickScan(vectors)(queries, k)
    assert found.shape == (5, k)
    scores, true = scan(vectors, queries, k)
    there = true >= 0
    assert np.array_equal(there, found >= 0)
    products = np.take_along_axis(queries @ vectors.T, np.maximum(found, 0), 1)
    np.testing.assert_allclose(products[there], scores[there], atol=1e-6)


def test_quick_scan_is_mapped_from_the_file_that_faiss_would_write(tmp_path):
    x, queries = clusters(12_000, 100, seed=4), clusters(5, 100, seed=5)
    x.tofile(tmp_path / "rows")
    bounds = quick_scan.build(StoredRows(tmp_path / "rows", 100), tmp_path / "scan")
    inside = QuickScan(x)
    faiss.write_index(inside._codes, str(tmp_path / "whole"))
    assert (tmp_path / "scan").read_bytes() == (tmp_path / "whole").read_bytes()
    assert np.array_equal(QuickScan(x, tmp_path / "scan", bounds)(queries, 10), inside(queries, 10))


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1), st.sampled_from([1e-4, 0.05, 1.0]))
def test_quick_scan_proves_its_answer_where_scores_lie_close(seed, share, spread):
    """Rows that differ by less than a byte can tell: more are proposed, in the end all are looked at."""
    rng = np.random.default_rng(seed)
    x = clusters(1, 64, seed) + spread * rng.standard_normal((17_000, 64)).astype(np.float32) / 8
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    mask = rng.random(len(x)) < share
    query = clusters(1, 64, seed + 1)
    found = QuickScan(x)(query, 10, mask)[0]
    scores = scan(x, query, 10, live=mask)[0][0]
    assert (found >= 0).sum() == min(10, mask.sum())
    products = (x[found] @ query[0])[found >= 0]
    assert mask[found[found >= 0]].all()
    np.testing.assert_allclose(products, scores[: len(products)], atol=1e-6)


def test_reduction_keeps_lengths_of_what_it_spans():
    rng = np.random.default_rng(6)
    basis, _ = np.linalg.qr(rng.standard_normal((300, 40)))
    x = (rng.standard_normal((500, 40)) @ basis.T).astype(np.float32)
    turn = clustering.reduction([x[:300], x[300:]], 300, seed=0)
    assert turn.shape == (300, 64)
    np.testing.assert_allclose(turn.T @ turn, np.eye(64), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(x @ turn, axis=1), np.linalg.norm(x, axis=1), rtol=1e-4)


def test_every_centre_has_a_direction():
    # 5 different vectors, 8 centres: some own nothing.
    sample = np.tile(clusters(5, 12, seed=7), (20, 1))
    made = clustering.centres(sample, 8, seed=0)
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)
    assert (sample * made[clustering.nearest(sample, made)]).sum(1).min() > 0.999


def test_rows_of_a_file_are_those_of_the_matrix(tmp_path, vectors):
    vectors.tofile(tmp_path / "rows")
    stored = StoredRows(tmp_path / "rows", 96)
    assert stored.shape == vectors.shape
    assert len(stored) == len(vectors)
    for rows in (slice(0, 7), slice(5990, 9000), slice(3, 3), np.array([5, 1, 5]), np.empty(0, np.int64)):
        assert np.array_equal(stored[rows], vectors[rows])
