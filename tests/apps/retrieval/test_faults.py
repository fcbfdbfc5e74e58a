"""kill -9, damaged bytes, a full disk: what was acknowledged stays, what is damaged is named and can be repaired."""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from farfield.apps.retrieval import maintain
from farfield.apps.retrieval.collection import Collection
from farfield.apps.retrieval.document import Document
from farfield.apps.retrieval.segment import FOLDER
from farfield.apps.retrieval.store import FILE, Damaged
from farfield.apps.retrieval.verify import differs_from_store, repair, verify
from farfield.apps.retrieval.wal import damaged_frame
from farfield.apps.training.errors import UserError
from tests.apps.retrieval.fake_encoder import FakeEncoder

ROOT = Path(__file__).parents[3]
DISTURB = Path(__file__).with_name("disturb_index.py")


def documents(first: int, last: int, words: int = 30) -> list[Document]:
    return [
        Document(f"d{i}", " ".join(f"w{(7 * i + j) % 61}" for j in range(words)), metadata={"n": i})
        for i in range(first, last)
    ]


def contents(folder: Path) -> dict[str, Document]:
    with Collection.open(folder, FakeEncoder(), merge_at=None) as index:
        ids = [id for (id,) in index.store.db.execute("SELECT id FROM documents")]
        return {id: index.get(id) for id in ids}


@pytest.fixture
def folder(tmp_path) -> Path:
    """An index with a segment of 40 documents, 10 of them deleted, and 20 documents in the delta."""
    with Collection.create(tmp_path / "index", FakeEncoder(), merge_at=None) as index:
        index.add(documents(0, 40))
        maintain.merge(index)
        index.add(documents(40, 60))
        index.delete([f"d{i}" for i in range(10)])
    return tmp_path / "index"


def disturb(folder: Path, rounds: int, seed: int) -> str:
    env = os.environ | {"PYTHONPATH": f"{ROOT / '.typing'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(DISTURB), str(folder), str(rounds), str(seed)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_20_kills_lose_nothing_that_was_acknowledged(tmp_path):
    assert disturb(tmp_path / "index", 20, 1).startswith("20 kills")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3, 4, 5])
def test_200_kills_lose_nothing_that_was_acknowledged(tmp_path, seed):
    assert disturb(tmp_path / "index", 50, seed).startswith("50 kills")


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def segment_files(folder: Path) -> list[Path]:
    return sorted((folder / FOLDER).glob("*/*"))


@pytest.mark.parametrize("name", ["manifest.json", "vectors.f32", "rows.i64"])
@pytest.mark.parametrize("how", ["flip", "tear", "remove"])
def test_a_damaged_segment_is_named_and_built_again(folder, name, how):
    before = contents(folder)
    path = next(p for p in segment_files(folder) if p.name == name)
    if how == "flip":
        flip(path, path.stat().st_size // 2)
    elif how == "tear":
        os.truncate(path, path.stat().st_size // 2)
    else:
        path.unlink()
    with pytest.raises(Damaged, match=rf"{name}.*action=repair"):
        Collection.open(folder, FakeEncoder())
    damage = verify(folder)
    assert len(damage) == 1
    assert name in str(damage[0])
    mended, left = repair(folder)
    assert len(mended) == 1
    assert left == []
    assert verify(folder) == []
    assert contents(folder) == before


def test_a_flipped_faiss_file_is_named(tmp_path):
    folder = tmp_path / "index"
    with Collection.create(folder, FakeEncoder(), kind="hnsw", merge_at=None) as index:
        index.add(documents(0, 400))
        maintain.build(index)
        assert index.view().parts[0].kind == "hnsw"
    path = next(p for p in segment_files(folder) if p.name == "index.faiss")
    flip(path, 200)
    with pytest.raises(Damaged, match=r"index\.faiss: differs from its checksum"):
        Collection.open(folder, FakeEncoder())
    repair(folder)
    assert len(contents(folder)) == 400


@pytest.mark.parametrize("seed", [*range(8), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(8, 60))])
def test_a_flipped_byte_of_the_store_is_named_or_harmless(folder, seed):
    """Wherever it lies: verify names it, or every document, vector and answer is what it was."""
    before = contents(folder)
    path = folder / FILE
    flip(path, random.Random(seed).randrange(path.stat().st_size))
    damage = verify(folder)
    if not damage:
        assert contents(folder) == before
        with Collection.open(folder, FakeEncoder(), merge_at=None) as index:
            assert differs_from_store(index) == []
        return
    try:
        _, left = repair(folder, FakeEncoder())
    except UserError as error:
        assert "snapshot" in str(error)  # noqa: PT017
        return
    after = contents(folder)
    lost = set(before) - set(after)
    hurt = {id for id in after if after[id] != before[id]}
    # What could not be saved is said.
    assert not (lost | hurt) or left or any(d.kind in ("file", "document") for d in damage)
    assert len(lost | hurt) <= 20
    assert [d for d in verify(folder) if d.id not in hurt] == []


def test_a_torn_store_says_what_can_be_done(folder):
    os.truncate(folder / FILE, (folder / FILE).stat().st_size // 2)
    assert verify(folder)[0].where.endswith(FILE)
    try:
        repair(folder, FakeEncoder())
    except UserError as error:
        assert "snapshot" in str(error)  # noqa: PT017
    else:
        assert verify(folder) == []


@pytest.fixture
def log(tmp_path) -> Path:
    """A copy of an index whose last twenty commits are still in the log, as kill -9 leaves them."""
    with Collection.create(tmp_path / "open", FakeEncoder(), merge_at=None) as index:
        for document in documents(0, 20):
            index.add([document])
        shutil.copytree(tmp_path / "open", tmp_path / "index")
    (tmp_path / "index" / f"{FILE}-shm").unlink()
    return tmp_path / "index" / f"{FILE}-wal"


def test_a_sound_log_is_read_whole(log):
    assert damaged_frame(log) is None
    assert len(contents(log.parent)) == 20


def test_an_unfinished_end_of_a_log_is_no_damage(log):
    """What a crash leaves: half a frame, or frames without their commit."""
    os.truncate(log, log.stat().st_size - 2000)
    assert damaged_frame(log) is None
    assert len(contents(log.parent)) == 19


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_flipped_byte_in_a_log_is_named_before_commits_are_lost(log, share):
    flip(log, 40 + int(share * (log.stat().st_size - 200)))
    size = log.stat().st_size
    with pytest.raises(Damaged, match=r"store\.sqlite-wal: the checksum of frame \d+ is wrong"):
        Collection.open(log.parent, FakeEncoder())
    assert log.stat().st_size == size
    assert "-wal" in str(verify(log.parent)[0])
    repair(log.parent, FakeEncoder())
    assert (log.parent / f"{log.name}.damaged").stat().st_size == size
    assert verify(log.parent) == []
    assert len(contents(log.parent)) < 20


def test_a_damaged_vector_is_taken_from_its_segment_or_made_again(folder):
    before = contents(folder)
    with Collection.open(folder, FakeEncoder(), merge_at=None) as index, index.store.writing() as db:
        # One document of the segment, one of the delta.
        for id in ("d20", "d50"):
            query = "UPDATE vectors SET data = zeroblob(64) WHERE doc = (SELECT doc FROM documents WHERE id = ?)"
            db.execute(query, [id])
    assert {d.id for d in verify(folder)} == {"d20", "d50"}
    with pytest.raises(Damaged, match="differs from its checksum"):
        Collection.open(folder, FakeEncoder())
    _, left = repair(folder)
    assert [d.id for d in left] == ["d50"]
    _, left = repair(folder, FakeEncoder())
    assert left == []
    assert verify(folder) == []
    assert contents(folder) == before


@pytest.mark.parametrize("change", ["metadata = '{\"n\":3'", "text = CAST(x'77ff3120' AS TEXT)"])
def test_a_document_that_cannot_be_read_can_after_its_repair(folder, change):
    with Collection.open(folder, FakeEncoder(), merge_at=None) as index, index.store.writing() as db:
        db.execute(f"UPDATE documents SET {change} WHERE id = 'd30'")
    assert {d.id for d in verify(folder) if d.kind == "document"} == {"d30"}
    with Collection.open(folder, FakeEncoder(), merge_at=None) as index, pytest.raises(Damaged):
        index.get("d30")
    _, left = repair(folder, FakeEncoder())
    assert [d.id for d in left] == ["d30"]
    with Collection.open(folder, FakeEncoder(), merge_at=None) as index:
        assert index.get("d30").id == "d30"
        assert index.add(documents(30, 31)).replaced == ("d30",)
    assert verify(folder) == []


def test_a_damaged_text_is_named_and_replaced_by_the_next_ingest(folder):
    with Collection.open(folder, FakeEncoder(), merge_at=None) as index, index.store.writing() as db:
        db.execute("UPDATE documents SET text = 'something else' WHERE id = 'd30'")
    damage = verify(folder)
    assert {d.id for d in damage if d.kind == "document"} == {"d30"}
    _, left = repair(folder)
    assert [d.id for d in left] == ["d30"]
    with Collection.open(folder, FakeEncoder(), merge_at=None) as index:
        assert index.add(documents(30, 31)).replaced == ("d30",)
    assert verify(folder) == []


FULL = """
import resource, sys
from farfield.apps.retrieval import maintain
from farfield.apps.retrieval.collection import Collection
from farfield.apps.training.errors import UserError
from tests.apps.retrieval.fake_encoder import FakeEncoder
from tests.apps.retrieval.test_faults import documents

def limited(size, call):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        call()
        return "done"
    except UserError as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

with Collection.open(sys.argv[1], FakeEncoder(), merge_at=None) as index:
    before = [(hit.id, hit.score) for hit in index.search("w1 w2", 50, mode="dense")]
    said = [limited(100_000, lambda: index.add(documents(100, 130, words=3000)))]
    said.append(limited(2_000, lambda: maintain.build(index)))
    said.append(limited(2_000, lambda: maintain.snapshot(index.store, index.folder.parent / "copy")))
    assert [(hit.id, hit.score) for hit in index.search("w1 w2", 50, mode="dense")] == before
    assert "done" not in said, said
    assert all("File too large" in s or "full" in s or "I/O" in s for s in said), said
    assert len(index.add(documents(100, 130)).new) == 30
"""


def test_a_full_disk_is_an_error_and_the_old_state(folder):
    before = contents(folder)
    env = os.environ | {"PYTHONPATH": f"{ROOT / '.typing'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(folder)], env=env, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    after = contents(folder)
    assert {id: after[id] for id in before} == before
    assert len(after) == len(before) + 30
    assert verify(folder) == []
    assert not (folder.parent / "copy").exists()


def test_readers_see_whole_states_while_a_writer_writes(tmp_path):
    """Every answer is that of one moment: pairs of documents that are written together are found together."""
    index = Collection.create(tmp_path / "index", FakeEncoder(), merge_at=30)
    index.add([Document("left", "pair version0"), Document("right", "pair version0")])
    stop, wrong = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            hits = index.search("pair", 3, mode="dense")
            texts = {hit.passage for hit in hits if hit.id in ("left", "right")}
            if len(texts) != 1 or len(hits) < 2:
                wrong.append(hits)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(1, 40):
        index.add([Document(id, f"pair version{number}") for id in ("left", "right")])
        index.add([Document(f"other{number}", f"else {number}")])
        assert index.search(f"else {number}", 1, mode="dense")[0].id == f"other{number}"
    stop.set()
    for reader in readers:
        reader.join()
    index.close()
    assert wrong == []
    assert index.merge_error is None
    assert verify(tmp_path / "index") == []


def test_another_process_sees_writes_and_merges(folder):
    one = Collection.open(folder, FakeEncoder(), merge_at=None)
    with one, Collection.open(folder, FakeEncoder(), merge_at=None) as two:
        two.add([Document("new", "alpha beta gamma")])
        two.delete(["d20"])
        assert one.search("alpha beta gamma", 1, mode="dense")[0].id == "new"
        maintain.build(two)
        two.add([Document("newer", "delta epsilon zeta")])
        assert one.search("delta epsilon zeta", 1, mode="dense")[0].id == "newer"
        assert "d20" not in {hit.id for hit in one.search("w1", 100, mode="dense")}
        assert differs_from_store(one) == []


def test_an_encoder_that_another_process_moved_to_is_loaded(folder):
    with Collection.open(folder, FakeEncoder(), load=lambda s: FakeEncoder(salt=s["salt"])) as serving:
        with Collection.open(folder, FakeEncoder()) as other:
            maintain.migrate(other, FakeEncoder(salt="two"), {"salt": "two"})
        assert len(serving.search("w1 w2", 5, mode="dense")) == 5
        assert serving.encoder.fingerprint["salt"] == "two"
    with pytest.raises(UserError, match=r"another encoder.*action=migrate"):
        Collection.open(folder, FakeEncoder())
    with Collection.open(folder, FakeEncoder(salt="two")) as index:
        back = FakeEncoder()
        maintain.migrate(index, back)
        assert back.calls == 0
