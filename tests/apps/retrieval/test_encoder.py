"""The encoder of a folder agrees with sentence-transformers, and says what it leaves out."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from farfield.apps.retrieval.encoder import (
    TruncatedText,
    TruncationWarning,
    fingerprint_difference,
    fingerprint_digest,
    load_encoder,
)
from farfield.apps.training.errors import UserError
from tests.apps.retrieval import tiny_encoder

LONG = "the river and the stone of the moon in winter, bread with music. " * 4
TEXTS = [LONG, "silver tiger", "", "the garden of glass " * 5, "Moon\x00 Élan \U0001f600 ＡＢＣ paper"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder.make(tmp_path_factory.mktemp("encoder"))


def test_truncated_vectors_equal_those_of_sentence_transformers(folder: Path) -> None:
    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, normalize_embeddings=True)
    encoder = load_encoder(folder, device="cpu")
    made = encoder.encode(TEXTS, policy="truncate")
    assert np.abs(np.stack([e.windows[0] for e in made]) - expected).max() < 1e-6
    assert np.abs(encoder.encode_queries(TEXTS, policy="truncate") - expected).max() < 1e-6
    assert [e.truncated for e in made] == [True, False, False, True, False]
    assert all(len(e.windows) == 1 and np.array_equal(e.whole, e.windows[0]) for e in made)


def test_windows_are_the_vectors_of_their_own_characters(folder: Path) -> None:
    encoder = load_encoder(folder, device="cpu", overlap=3)
    made = encoder.encode(TEXTS)
    for text, encoding in zip(TEXTS, made, strict=True):
        parts = [text[a:b] for a, b in encoding.offsets]
        assert np.abs(encoder.encode_queries(parts, policy="error") - encoding.windows).max() < 1e-6
        assert encoding.n_tokens == encoder.count_tokens([text])[0]
        assert not encoding.truncated
        assert np.linalg.norm(encoding.whole) == pytest.approx(1, abs=1e-5)
        assert encoding.offsets[-1, 1] == len(text.rstrip())
    assert len(made[0].windows) > 4
    assert made[2].offsets.tolist() == [[0, 0]]


def test_vectors_do_not_depend_on_what_they_are_batched_with(folder: Path) -> None:
    together = load_encoder(folder, device="cpu").encode(TEXTS)
    alone = load_encoder(folder, device="cpu", batch_tokens=1)
    for text, encoding in zip(TEXTS, together, strict=True):
        again = alone.encode([text])[0]
        assert np.abs(again.windows - encoding.windows).max() < 1e-6
        assert np.abs(again.whole - encoding.whole).max() < 1e-6


def test_the_policies_refuse_warn_or_keep_silent(folder: Path) -> None:
    encoder = load_encoder(folder, device="cpu")
    with pytest.raises(TruncatedText, match=r"text 1 has .* tokens.*reads 14.*policy=chunk"):
        encoder.encode(["tiger", LONG], policy="error")
    with pytest.warns(TruncationWarning, match="2 texts have more than 14 tokens"):
        assert [e.truncated for e in encoder.encode(TEXTS, policy="warn")] == [True, False, False, True, False]
    with pytest.warns(TruncationWarning, match="1 texts"):
        encoder.encode_queries([LONG])
    with pytest.raises(TruncatedText, match="query 0"):
        encoder.encode_queries([LONG], policy="error")
    with pytest.raises(UserError, match="accepted: error, warn, chunk, truncate"):
        encoder.encode(TEXTS, policy="skip")  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.encode(TEXTS)
        encoder.encode_queries([LONG], policy="truncate")


def test_prompts_stand_before_every_window(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    prompts = {"query": "question the ", "document": "paper of "}
    folder = tiny_encoder.make(tmp_path, prompts=prompts)
    model = SentenceTransformer(str(folder), device="cpu")
    encoder = load_encoder(folder, device="cpu")
    text = "the garden of glass " * 5
    expected = model.encode([text], prompt_name="document", normalize_embeddings=True)
    assert np.abs(encoder.encode([text])[0].windows[0] - expected[0]).max() < 1e-6
    asked = model.encode(["silver tiger"], prompt_name="query", normalize_embeddings=True)
    assert np.abs(encoder.encode_queries(["silver tiger"]) - asked).max() < 1e-6
    assert (encoder.max_tokens, encoder.max_query_tokens) == (12, 12)


def test_fingerprints_differ_in_weights_and_windows_alone(folder: Path, tmp_path: Path) -> None:
    first = load_encoder(folder, device="cpu").fingerprint
    assert fingerprint_digest(first) == fingerprint_digest(load_encoder(folder, device="cpu").fingerprint)
    narrow = load_encoder(folder, device="cpu", window=8, overlap=2).fingerprint
    assert fingerprint_difference(first, narrow) == ["overlap: 0 -> 2", "window: 14 -> 8"]
    other = load_encoder(tiny_encoder.make(tmp_path, seed=2), device="cpu").fingerprint
    assert [line.split(":")[0] for line in fingerprint_difference(first, other)] == ["weights"]
    assert json.loads(json.dumps(dict(first))) == first
    assert first["pooling"] == "mean"


def test_folders_that_cannot_be_read_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"modules\.json"):
        load_encoder(tmp_path / "nothing")
    (tmp_path / "modules.json").write_text('[{"idx": 0, "name": "0", "path": "", "type": "os.system"}]')
    with pytest.raises(UserError, match=r"os\.system would run code from elsewhere"):
        load_encoder(tmp_path)
    (tmp_path / "modules.json").write_text("[1")
    with pytest.raises(UserError, match="does not read"):
        load_encoder(tmp_path)
    with pytest.raises(UserError, match=r"window=15: .* 1 to 14"):
        load_encoder(folder, window=15)
    with pytest.raises(UserError, match="overlap=14"):
        load_encoder(folder, overlap=14)
    with pytest.raises(UserError, match="half of a surrogate"):
        load_encoder(folder, device="cpu").encode(["a \ud800 b"])


def test_progress_counts_every_token(folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    load_encoder(folder, device="cpu", batch_tokens=32).encode(TEXTS, progress=lambda *x: seen.append(x))
    assert seen[-1][0] == seen[-1][1] == sum(e.n_tokens for e in load_encoder(folder, device="cpu").encode(TEXTS))
    assert [a for a, _ in seen] == sorted(a for a, _ in seen)
