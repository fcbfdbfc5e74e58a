"""HyenaDNA on real genomes: train, evaluate, score."""

VERBS = {
    "pretrain": "farfield.apps.genomics.pretrain:pretrain",
    "evaluate": "farfield.apps.genomics.evaluate:evaluate",
    "score": "farfield.apps.genomics.score:score",
}
