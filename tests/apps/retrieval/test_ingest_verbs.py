"""The verbs ingest, search and index on files, as the command line calls them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from farfield.apps.cli.compose import composed
from farfield.apps.retrieval import index as index_verb
from farfield.apps.retrieval import ingest as ingest_verb
from farfield.apps.retrieval import opening
from farfield.apps.retrieval import search as search_verb
from farfield.apps.retrieval.collection import Collection
from farfield.apps.retrieval.verify import verify
from farfield.apps.training.errors import UserError
from tests.apps.retrieval.fake_encoder import FakeEncoder

ROOT = Path(__file__).parents[3]


def fake(path: str, *, window: int | None = None, overlap: int = 0, **how: str) -> FakeEncoder:
    return FakeEncoder(salt=f"{path} {window}")


@pytest.fixture(autouse=True)
def fakes(monkeypatch):
    for module in (opening, ingest_verb, index_verb):
        monkeypatch.setattr(module, "load_encoder", fake)


@pytest.fixture
def data(tmp_path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for i in range(6):
        (folder / f"{i}.txt").write_text(f"alpha{i} beta gamma delta{i % 2}")
    rows = [{"id": f"r{i}", "text": f"row{i} beta", "year": 2000 + i} for i in range(4)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def call(verb, tmp_path, **values):
    run = tmp_path / "run"
    run.mkdir(exist_ok=True)
    name = verb.__name__
    words = {"ingest": ["data=?", "index=?"], "search": ["index=?", "query=?"], "index": ["index=?", "action=?"]}[name]
    settings = composed("retrieval", name, [word.replace("?", "given") for word in words])
    return verb(run_folder=run, **(settings | {"index": str(tmp_path / "ix")} | values))


def test_what_is_there_is_passed_over_and_what_changed_is_replaced(data, tmp_path, capsys):
    call(ingest_verb.ingest, tmp_path, data=str(data))
    assert "10 new, 0 changed, 0 unchanged documents; " in capsys.readouterr().out
    (data / "0.txt").write_text("omega")
    (data / "new.md").write_text("# New\nomicron")
    call(ingest_verb.ingest, tmp_path, data=str(data))
    assert "1 new, 1 changed, 9 unchanged" in capsys.readouterr().out
    facts = json.loads((tmp_path / "run" / "ingest.json").read_text())
    assert facts == {
        "documents": 11,
        "new": 1,
        "replaced": 1,
        "unchanged": 9,
        "truncated": [],
        "skipped": [],
    }
    hits = call(search_verb.search, tmp_path, query="omega", k=1, mode="dense")
    assert [hit.id for hit in hits] == ["0.txt"]


def test_search_prints_and_writes_hits(data, tmp_path, capsys):
    call(ingest_verb.ingest, tmp_path, data=str(data))
    out = tmp_path / "hits.jsonl"
    hits = call(search_verb.search, tmp_path, query="beta", filters=["year>=2002"], out=str(out))
    assert {hit.id for hit in hits} == {"r2", "r3"}
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == [hit.id for hit in hits]
    assert "1. r" in capsys.readouterr().out
    assert call(search_verb.search, tmp_path, query="beta", filters=["year=2001", "year!=2001"]) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"k": 0}, "k=0: a whole number"),
        ({"mode": "fuzzy"}, "mode=fuzzy: dense, bm25, hybrid"),
        ({"filters": ["year"]}, "filters: 'year' came; name=value"),
        ({"filters": "year=1"}, "a list of conditions"),
        ({"encoder": "another"}, r"another encoder.*action=migrate"),
        ({"index": "nowhere"}, "holds no index"),
    ],
)
def test_a_wrong_search_says_what_is_accepted(data, tmp_path, values, message):
    call(ingest_verb.ingest, tmp_path, data=str(data))
    with pytest.raises(UserError, match=message):
        call(search_verb.search, tmp_path, **({"query": "beta"} | values))


def test_one_id_for_two_texts_is_refused(data, tmp_path):
    (data / "more.jsonl").write_text('{"id": "r1", "text": "something else"}')
    with pytest.raises(UserError, match=r"id 'r1' stands for another text in .*more\.jsonl"):
        call(ingest_verb.ingest, tmp_path, data=str(data))


def test_unreadable_files_stop_or_are_listed(data, tmp_path, capsys):
    (data / "bad.pdf").write_bytes(b"no pdf")
    with pytest.raises(UserError, match=r"bad\.pdf: no readable PDF.*on_error=skip"):
        call(ingest_verb.ingest, tmp_path, data=str(data))
    call(ingest_verb.ingest, tmp_path, data=str(data), on_error="skip")
    assert "skipped: " in capsys.readouterr().out
    assert len(json.loads((tmp_path / "run" / "ingest.json").read_text())["skipped"]) == 1


@pytest.mark.parametrize(("name", "value"), [("policy", "truncate"), ("kind", "hnsw")])
def test_a_setting_that_the_index_has_otherwise_is_refused(data, tmp_path, name, value):
    call(ingest_verb.ingest, tmp_path, data=str(data), **{name: value})
    call(ingest_verb.ingest, tmp_path, data=str(data), **{name: value})
    call(ingest_verb.ingest, tmp_path, data=str(data))
    with pytest.raises(UserError, match=rf"{name}=flat: .* was made with {name}={value}; leave {name} out"):
        call(ingest_verb.ingest, tmp_path, data=str(data), **{name: "flat"})


def test_the_estimate_counts_what_will_be_encoded(data, tmp_path, capsys):
    (data / "long.txt").write_text("words " * 1000)
    call(ingest_verb.ingest, tmp_path, data=str(data))
    assert int(capsys.readouterr().out.split("; ")[1].split()[0].replace(",", "")) > 6000
    call(ingest_verb.ingest, tmp_path, data=str(data), policy="truncate", index=str(tmp_path / "cut"))
    assert int(capsys.readouterr().out.split("; ")[1].split()[0].replace(",", "")) < 400


def test_what_is_cut_is_listed(data, tmp_path, capsys):
    (data / "long.txt").write_text("word " * 100)
    call(ingest_verb.ingest, tmp_path, data=str(data), policy="truncate")
    assert "1 texts are cut" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "ingest.json").read_text())["truncated"] == ["long.txt"]


def test_actions_keep_the_answers(data, tmp_path, capsys):
    call(ingest_verb.ingest, tmp_path, data=str(data))
    answer = [hit.id for hit in call(search_verb.search, tmp_path, query="alpha3 beta", mode="dense")]
    for action, values in (("build", {"kind": "flat"}), ("merge", {}), ("compact", {}), ("verify", {}), ("repair", {})):
        call(index_verb.index, tmp_path, action=action, **values)
        assert [h.id for h in call(search_verb.search, tmp_path, query="alpha3 beta", mode="dense")] == answer
    copy = str(tmp_path / "copy")
    call(index_verb.index, tmp_path, action="snapshot", out=copy)
    assert [h.id for h in call(search_verb.search, tmp_path, query="alpha3 beta", mode="dense", index=copy)] == answer
    call(index_verb.index, tmp_path, action="migrate", encoder="other")
    call(index_verb.index, tmp_path, action="migrate", encoder="minilm")
    assert [h.id for h in call(search_verb.search, tmp_path, query="alpha3 beta", mode="dense")] == answer
    assert "segments: flat of 10; in memory: 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"action": "destroy"}, "action=destroy: build, merge"),
        ({"action": "build", "kind": "tree"}, "kind=tree: auto, flat"),
        ({"action": "merge", "kind": "flat"}, "with action=build"),
        ({"action": "snapshot"}, "needs out="),
        ({"action": "migrate"}, "needs encoder="),
    ],
)
def test_a_wrong_action_says_what_is_accepted(data, tmp_path, values, message):
    call(ingest_verb.ingest, tmp_path, data=str(data))
    with pytest.raises(UserError, match=message):
        call(index_verb.index, tmp_path, **values)


def test_verify_fails_with_the_name_of_what_is_damaged(data, tmp_path):
    call(ingest_verb.ingest, tmp_path, data=str(data))
    call(index_verb.index, tmp_path, action="build")
    path = next((tmp_path / "ix" / "segments").glob("*/vectors.f32"))
    os.truncate(path, 100)
    with pytest.raises(UserError, match=r"vectors\.f32 has 100 bytes|vectors\.f32: has 100 bytes"):
        call(index_verb.index, tmp_path, action="verify")
    call(index_verb.index, tmp_path, action="repair")
    call(index_verb.index, tmp_path, action="verify")


KILLED = """
import sys, time
from pathlib import Path
from farfield.apps.retrieval import ingest as verb, opening
from farfield.apps.cli.compose import composed
from tests.apps.retrieval.test_ingest_verbs import fake

class Slow:
    def __init__(self, encoder): self.inner = encoder
    def __getattr__(self, name): return getattr(self.inner, name)
    def encode(self, texts, **how):
        time.sleep(0.02)
        return self.inner.encode(texts, **how)

opening.load_encoder = verb.load_encoder = lambda *a, **k: Slow(fake(*a, **k))
verb.BATCH_DOCUMENTS = 3
run = Path(sys.argv[3]); run.mkdir(exist_ok=True)
verb.ingest(run_folder=run, **composed("retrieval", "ingest", [f"data={sys.argv[1]}", f"index={sys.argv[2]}"]))
"""


def test_an_ingest_that_was_killed_goes_on(tmp_path):
    rows = [{"id": f"r{i}", "text": f"row{i} beta"} for i in range(300)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    env = os.environ | {"PYTHONPATH": f"{ROOT / '.typing'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", KILLED, *(str(tmp_path / name) for name in ("rows.jsonl", "ix", "run"))]
    first = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True)
    # Its estimate says that it begins.
    assert "300 new" in first.stdout.readline()
    time.sleep(0.5)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    second = subprocess.run(words, env=env, capture_output=True, text=True, timeout=120)
    assert second.returncode == 0, second.stderr
    new, unchanged = (int(word.split()[0]) for word in second.stdout.split(";")[0].split(",")[::2])
    assert 0 < unchanged < 300
    assert new + unchanged == 300
    with Collection.open(tmp_path / "ix") as collection:
        assert len(collection) == 300
    assert verify(tmp_path / "ix") == []
