"""`farfield retrieval search`: the documents of an index that answer a query, each with the passage that fits best."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from farfield.apps.retrieval.document import Hit
from farfield.apps.retrieval.filters import parsed
from farfield.apps.retrieval.opening import open_index
from farfield.apps.training.atomic import atomic_write
from farfield.apps.training.errors import UserError

# Characters of a passage that a terminal shows.
SHOWN = 300


def search(
    *,
    run_folder: Path,
    index: str,
    query: str,
    k: int,
    mode: str,
    by: str,
    filters: list[str],
    encoder: str | None,
    out: str | None,
    device: str,
    precision: str,
    seed: int,
    resume: str | None,
) -> list[Hit]:
    """Print the best documents, and write them as JSON lines where `out` names a file.

    Args:
        run_folder: Where the run notes its settings.
        index: Folder of the index.
        query: Text that is searched for.
        k: Documents wanted.
        mode: dense (cosine), bm25 (words), hybrid (both by reciprocal rank).
        by: Which vectors rank a document: best, window, whole.
        filters: Conditions on metadata, all of which hold: lang=en, year>=2000, draft!=true.
        encoder: Where the index's encoder lies now; None is where it was.
        out: File of JSON lines.
        device, precision, seed: As everywhere; nothing is drawn at random.
        resume: Nothing to continue; named for all verbs alike.
    Returns: Hits, best first.
    Raises: UserError: there is no such index, or a setting is not accepted.
    """
    if not isinstance(filters, list):
        raise UserError(f"filters={filters}: a list of conditions is accepted, \"filters=['year>=2000']\"")
    with open_index(index, encoder, None, 0, device, precision) as collection:
        hits = collection.search(str(query), k, mode=mode, by=by, filters=parsed(filters))
        total = len(collection)
    if out is not None:
        lines = (json.dumps(asdict(hit), ensure_ascii=False) for hit in hits)
        atomic_write(out, "".join(f"{line}\n" for line in lines))
    print(f"{len(hits)} of {total:,} documents ({mode})")
    for rank, hit in enumerate(hits, 1):
        scores = {"whole": hit.whole_score, "window": hit.window_score, "BM25": hit.bm25_score}
        told = "  ".join(f"{name} {score:.3f}" for name, score in scores.items() if score is not None)
        title = f"  {hit.title}" if hit.title else ""
        passage = " ".join(hit.passage.split())
        passage = passage if len(passage) <= SHOWN else f"{passage[:SHOWN]} ..."
        print(f"\n{rank}. {hit.id}{title}\n   {told}  characters {hit.start:,} to {hit.stop:,}\n   {passage}")
    return hits
