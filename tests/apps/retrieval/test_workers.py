"""Many workers make the index that one process makes, and what they made before an interruption is not made again."""

from __future__ import annotations

import json

import numpy as np
import pytest

from farfield.apps.cli.compose import composed
from farfield.apps.retrieval import shards, workers
from farfield.apps.retrieval.collection import Collection, digest_of
from farfield.apps.retrieval.document import Document
from farfield.apps.retrieval.encoder import load_encoder
from farfield.apps.retrieval.ingest import ingest
from farfield.apps.retrieval.verify import differs_from_store, verify
from farfield.apps.training.errors import UserError
from tests.apps.retrieval import tiny_encoder
from tests.apps.retrieval.fake_encoder import FakeEncoder


def batches(count: int, size: int = 4) -> list[list[Document]]:
    rng = np.random.default_rng(0)
    words = lambda: " ".join(rng.choice(tiny_encoder.WORDS, int(rng.integers(1, 60))))  # noqa: E731
    return [
        [Document(f"d{size * i + j}", words(), title=f"t{j}", metadata={"n": [i, j]}) for j in range(size)]
        for i in range(count)
    ]


def test_a_shard_comes_back_as_it_went(tmp_path):
    encoder, given = FakeEncoder(), batches(3)
    (name,) = shards.plan(tmp_path, given, digest_of(encoder), "chunk")
    assert list(shards.documents(tmp_path, name)) == given
    assert shards.vectors(tmp_path, name) is None
    shards.encode(tmp_path, name, encoder, "chunk")
    wanted = encoder.encode([d.text for batch in given for d in batch])
    for made, one in zip(shards.vectors(tmp_path, name), wanted, strict=True):
        np.testing.assert_array_equal(made.whole, one.whole)
        np.testing.assert_array_equal(made.windows, one.windows)
        np.testing.assert_array_equal(made.offsets, one.offsets)
        assert (made.n_tokens, made.truncated) == (one.n_tokens, one.truncated)
    calls = encoder.calls
    assert shards.plan(tmp_path, given, digest_of(encoder), "chunk") == [name]
    shards.encode(tmp_path, name, encoder, "chunk")
    assert encoder.calls == calls
    shards.remove(tmp_path, [name])
    assert not tmp_path.exists()


def test_a_damaged_shard_is_made_again(tmp_path):
    encoder = FakeEncoder()
    (name,) = shards.plan(tmp_path, batches(2), digest_of(encoder), "chunk")
    shards.encode(tmp_path, name, encoder, "chunk")
    path = tmp_path / f"{name}.safetensors"
    sound = path.read_bytes()
    for data in (sound[:-5], sound[:-5] + b"\xff" * 5, b""):
        path.write_bytes(data)
        assert shards.vectors(tmp_path, name) is None
        shards.encode(tmp_path, name, encoder, "chunk")
        assert path.read_bytes() == sound


def test_shards_of_another_encoder_policy_or_text_have_other_names(tmp_path):
    given = batches(1)
    changed = [[*given[0][:-1], Document("d3", "changed")]]
    plans = [("a", "chunk", given), ("b", "chunk", given), ("a", "truncate", given), ("a", "chunk", changed)]
    names = {shards.plan(tmp_path, docs, encoder, policy)[0] for encoder, policy, docs in plans}
    assert len(names) == 4


@pytest.mark.parametrize("count", [0, 1.5, True, "2"])
def test_workers_are_a_whole_number(tmp_path, count):
    with (
        Collection.create(tmp_path / "index", FakeEncoder()) as index,
        pytest.raises(UserError, match=r"workers=.*from 1"),
    ):
        embed(index, [], {}, count)


def embed(index, given, settings, count=2):
    how = {"device": "cpu", "precision": "fp32", "cluster": None}
    return list(workers.embed(index, given, settings=settings, workers=count, **how))


def rows(index):
    query = "SELECT id, window, start, stop, data FROM documents JOIN vectors USING (doc) ORDER BY doc, window"
    return index.store.db.execute(query).fetchall()


@pytest.fixture(scope="module")
def ray():
    """One Ray for all tests: a start takes seconds."""
    pytest.importorskip("ray")
    with workers._ray(2, None, "cpu"):
        yield


@pytest.fixture
def settings(tmp_path) -> dict[str, object]:
    return {"path": str(tiny_encoder.make(tmp_path / "encoder")), "window": None, "overlap": 2}


@pytest.mark.slow
def test_ray_makes_the_index_of_a_single_process(tmp_path, settings, ray, monkeypatch):
    monkeypatch.setattr(shards, "BATCHES", 2)
    encoder, given = load_encoder(**settings, device="cpu"), batches(9)
    with Collection.create(tmp_path / "one", encoder, settings) as one:
        for batch in given:
            one.add(batch)
        wanted, answer = rows(one), one.search("river stone", 5)
    with Collection.create(tmp_path / "many", encoder, settings, merge_at=20) as many:
        # As after an interruption: the first shard is in the index, the second one made.
        for batch in given[:2]:
            many.add(batch)
        first = shards.plan(tmp_path / "many.shards", given, digest_of(encoder), "chunk")
        shards.encode(tmp_path / "many.shards", first[1], encoder, "chunk")
        made = embed(many, given, settings)
        assert [documents for documents, _ in made] == given
        assert {ids for _, ids in made} == {()}
        assert rows(many) == wanted
        assert differs_from_store(many) == []
        assert many.search("river stone", 5) == answer
    assert not (tmp_path / "many.shards").exists()
    assert verify(tmp_path / "many") == []


@pytest.mark.slow
def test_what_a_worker_cannot_do_is_said(tmp_path, settings, ray):
    encoder, given = load_encoder(**settings, device="cpu"), batches(2)
    with Collection.create(tmp_path / "strict", encoder, settings, policy="error") as strict:
        with pytest.raises(UserError, match=r"has \d+ tokens.*What other workers made is kept in .*strict\.shards"):
            embed(strict, given, settings)
        assert len(strict) == 0
        with pytest.raises(UserError, match="of a worker is not the one of the index"):
            embed(strict, given, {**settings, "overlap": 0})


@pytest.mark.slow
def test_the_verb_makes_the_same_index_with_workers(tmp_path, settings, ray, capsys):
    data = tmp_path / "corpus.jsonl"
    data.write_text("".join(json.dumps({"id": d.id, "text": d.text}) + "\n" for batch in batches(40) for d in batch))
    made = {}
    for name, words in (("one", []), ("many", ["workers=2"])):
        words += [f"data={data}", f"index={tmp_path / name}", f"encoder={settings['path']}", "overlap=2", "device=cpu"]
        ingest(run_folder=tmp_path, **composed("retrieval", "ingest", words))
        assert "160 documents; 160 new, 0 replaced, 0 unchanged" in capsys.readouterr().out
        with Collection.open(tmp_path / name) as index:
            made[name] = rows(index)
    assert made["one"] == made["many"]
