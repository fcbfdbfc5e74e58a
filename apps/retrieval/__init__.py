"""Search over whole documents: ingest, index, search, evaluate."""

VERBS = {
    "ingest": "farfield.apps.retrieval.ingest:ingest",
    "index": "farfield.apps.retrieval.index:index",
    "search": "farfield.apps.retrieval.search:search",
    "evaluate": "farfield.apps.retrieval.evaluate:evaluate",
}
