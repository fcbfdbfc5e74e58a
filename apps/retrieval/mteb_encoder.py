"""Our encoders as mteb's: one vector a text, whole documents read window by window."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from mteb.models import ModelMeta
from mteb.models.model_meta import ScoringFunction
from mteb.types import PromptType

from farfield.apps.retrieval.encoder import Encoder, Policy, Vectors, fingerprint_digest


def model_meta(encoder: Encoder, name: str) -> ModelMeta:
    """What mteb writes beside its scores; the revision is the encoder's fingerprint."""
    return ModelMeta(
        loader=None,
        name=f"farfield/{name}",
        revision=fingerprint_digest(encoder.fingerprint),
        release_date=None,
        languages=None,
        n_parameters=None,
        memory_usage_mb=None,
        max_tokens=encoder.max_tokens,
        embed_dim=encoder.d,
        license=None,
        open_weights=None,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch"],
        similarity_fn_name=ScoringFunction.COSINE,
        use_instructions=False,
        training_datasets=None,
    )


class MtebEncoder:
    """An encoder behind mteb's EncoderProtocol.

    Args:
        encoder: Of `load_encoder`, or any other.
        name: In mteb's results, after `farfield/`.
        policy: As of `Encoder.encode`: with chunk a document's vector is the mean of its windows, with truncate the
            first one.
    """

    def __init__(self, encoder: Encoder, name: str = "encoder", *, policy: Policy = "chunk") -> None:
        self._encoder, self._policy = encoder, policy
        self._meta = model_meta(encoder, name)

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """Name, revision and sizes."""
        return self._meta

    def encode(self, inputs: Iterable[Any], *, prompt_type: PromptType | None = None, **how: Any) -> Vectors:
        """Vectors (n, d) of the texts of mteb's batches; queries are encoded as queries."""
        texts = [text for batch in inputs for text in batch["text"]]
        if prompt_type == PromptType.query:
            return self._encoder.encode_queries(texts, policy="truncate")
        return np.stack([e.whole for e in self._encoder.encode(texts, policy=self._policy)])

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosines (n, m)."""
        return _unit(embeddings1) @ _unit(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosines of equal rows (n,)."""
        return (_unit(embeddings1) * _unit(embeddings2)).sum(1)


def _unit(embeddings: Any) -> torch.Tensor:
    rows = torch.as_tensor(embeddings).float()
    return torch.nn.functional.normalize(rows.reshape(-1, rows.shape[-1]), dim=1)
