"""Kill an index at random moments and look at what is left: `python disturb_index.py FOLDER ROUNDS SEED`.

Each round forks a process that ingests, writes, deletes, merges and migrates, noting each call before it begins and
after it returned, and kills it with SIGKILL. Then the index is opened again: it has to hold what was acknowledged, and
of the call that was under way all or nothing (of an ingest, whole transactions). Its vectors are those that a rebuild
from the texts would make.
"""

from __future__ import annotations

import io
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path

from farfield.apps.cli.compose import composed
from farfield.apps.retrieval import ann, maintain, opening
from farfield.apps.retrieval import ingest as verb
from farfield.apps.retrieval.collection import Collection, vector_rows
from farfield.apps.retrieval.document import Document
from farfield.apps.retrieval.verify import differs_from_store, verify
from tests.apps.retrieval.fake_encoder import FakeEncoder

SALTS = ("one", "two")
# Documents of a transaction of ingest.
INGESTED = 5
State = dict[str, str]


def encoder(salt: str) -> FakeEncoder:
    return FakeEncoder(d=8, salt=salt)


def load(settings: dict[str, str]) -> FakeEncoder:
    return encoder(settings["salt"])


def document(id: str, text: str) -> Document:
    return Document(id, text, title=f"title of {id}", metadata={"length": len(text)})


def plan(rng: random.Random) -> list[object]:
    """One call: its name and what it is given."""
    name = rng.choices(["add", "ingest", "delete", "merge", "migrate", "compact", "build"], [6, 2, 3, 3, 2, 1, 1])[0]
    if name in ("add", "ingest"):
        text = lambda: " ".join(f"w{rng.randrange(50)}" for _ in range(rng.randrange(1, 60)))  # noqa: E731
        return [name, {f"d{rng.randrange(60)}": text() for _ in range(rng.randrange(1, 8 if name == "add" else 24))}]
    if name == "delete":
        return [name, [f"d{rng.randrange(60)}" for _ in range(4)]]
    if name == "migrate":
        return [name, rng.choice(SALTS)]
    if name == "build":
        return [name, rng.choice(["flat", "auto"])]
    return [name, None]


def applied(state: State, call: list) -> State:
    """The documents after a call."""
    name, what = call
    if name in ("add", "ingest"):
        return state | what
    if name == "delete":
        return {id: text for id, text in state.items() if id not in what}
    return state


def possible(state: State, call: list) -> list[State]:
    """What the index may hold after a call that did not return."""
    if call[0] != "ingest":
        return [state, applied(state, call)]
    # Documents that are there as they are go into no transaction.
    changed = [(id, text) for id, text in call[1].items() if state.get(id) != text]
    return [state | dict(changed[:end]) for end in (*range(0, len(changed), INGESTED), len(changed))]


def ingested(folder: Path, what: State) -> None:
    """The verb on a file of JSON lines."""
    run = folder.parent / "run"
    run.mkdir(exist_ok=True)
    rows = [{"id": id, "text": text, "title": f"title of {id}", "length": len(text)} for id, text in what.items()]
    (run / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    opening.load_encoder = lambda salt, **how: encoder(salt)
    verb.BATCH_DOCUMENTS = INGESTED
    words = composed("retrieval", "ingest", [f"data={run / 'rows.jsonl'}", f"index={folder}"])
    with redirect_stdout(io.StringIO()):
        verb.ingest(run_folder=run, **words)


def work(folder: Path, seed: int, out: int) -> None:
    """Calls without end, each noted before and after."""
    rng = random.Random(seed)
    # Merges of more rows than these make lists, beside which what comes meanwhile goes to disk.
    ann.SCAN_ROWS = ann.TRAINED_ROWS = 60
    index = Collection.open(folder, load=load, merge_at=40)
    while True:
        call = plan(rng)
        os.write(out, (json.dumps(call) + "\n").encode())
        name, what = call
        if name == "add":
            index.add([document(id, text) for id, text in what.items()])
        elif name == "ingest":
            ingested(folder, what)
        elif name == "delete":
            index.delete(what)
        elif name == "migrate":
            maintain.migrate(index, encoder(what), {"salt": what})
        elif name == "build":
            maintain.build(index, what)
        elif name == "merge":
            maintain.merge(index)
        elif index.store.meta("next") is None:
            # A migration that was killed is finished first.
            maintain.compact(index)
        os.write(out, b"done\n")


def look(folder: Path, candidates: list[State]) -> State:
    """The state that the index is in; it has to be one of the candidates, in every place where it is kept."""
    with Collection.open(folder, load=load, merge_at=None) as index:
        ids = [id for (id,) in index.store.db.execute("SELECT id FROM documents ORDER BY id")]
        found = {id: index.get(id).text for id in ids}
        assert found in candidates, f"{len(found)} documents, {[len(c) for c in candidates]} expected"
        assert all(index.get(id) == document(id, text) for id, text in found.items())
        assert differs_from_store(index) == []
        serving = index.encoder
        for id, text in found.items():
            query = (
                "SELECT window, start, stop, data FROM vectors JOIN documents USING (doc) WHERE id = ? AND encoder = ?"
            )
            kept = {
                (w, a, b): bytes(data) for w, a, b, data in index.store.db.execute(query, [id, index.view().encoder])
            }
            made = vector_rows(serving.encode([text])[0])
            assert kept == {(row.window, row.start, row.stop): row.data.tobytes() for row in made}, id
        hits = index.search("w1 w2 w3", 100, mode="dense")
        assert {hit.id for hit in hits} == set(found)
        words = {hit.id for hit in index.search("w7", 100, mode="bm25")}
        assert words == {id for id, text in found.items() if "w7" in text.split()}
    damage = [d for d in verify(folder) if d.kind != "leftover"]
    assert damage == [], damage
    return found


def main(folder: Path, rounds: int, seed: int) -> None:
    rng = random.Random(seed)
    Collection.create(folder, encoder("one"), {"salt": "one"}).close()
    state: State = {}
    killed: Counter[str] = Counter()
    for number in range(rounds):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            try:
                work(folder, rng.randrange(2**30) + number, write)
            except BaseException as error:
                os.write(write, json.dumps(["failed", repr(error)]).encode() + b"\n")
            finally:
                os._exit(1)
        os.close(write)
        time.sleep(rng.uniform(0.01, 0.4))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(read) as pipe:
            lines = pipe.read().splitlines()
        rng.random()
        under_way: list | None = None
        for line in lines:
            if line == "done":
                state, under_way = applied(state, under_way), None
            else:
                under_way = json.loads(line)
                assert under_way[0] != "failed", under_way
        killed[under_way[0] if under_way else "between"] += 1
        state = look(folder, possible(state, under_way) if under_way else [state])
    print(f"{rounds} kills, {len(state)} documents left; killed in {dict(killed)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
