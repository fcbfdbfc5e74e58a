"""Search over whole documents: ingest, index, search, serve, evaluate."""

VERBS = {
    "ingest": "farfield.apps.retrieval.ingest:ingest",
    "index": "farfield.apps.retrieval.index:index",
    "search": "farfield.apps.retrieval.search:search",
    "serve": "farfield.apps.retrieval.serve:serve",
    "evaluate": "farfield.apps.retrieval.evaluate:evaluate",
}
