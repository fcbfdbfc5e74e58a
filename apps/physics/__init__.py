"""Simulations of fields on grids and meshes: exact ones, and one's own."""

VERBS = {
    "describe": "farfield.apps.physics.describe:describe",
    "simulate": "farfield.apps.physics.simulate:simulate",
    "train": "farfield.apps.physics.train:train",
    "query": "farfield.apps.physics.query:query",
    "evaluate": "farfield.apps.physics.evaluate:evaluate",
}
