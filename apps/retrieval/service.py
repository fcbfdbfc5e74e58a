"""The service: search, documents, health, metrics, and embeddings as OpenAI's and TEI's clients ask for them."""

# No postponed annotations: FastAPI reads those of the routes while they are defined.
import asyncio
import base64
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI, HTTPException, Path, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, StrictStr
from starlette.exceptions import HTTPException as StarletteHTTPException

from farfield.apps.retrieval.collection import Collection
from farfield.apps.retrieval.document import Document
from farfield.apps.retrieval.encoder import TruncatedText
from farfield.apps.retrieval.page import PAGE, POLICY
from farfield.apps.retrieval.search_threads import Search, SearchThreads
from farfield.apps.retrieval.service_guard import UNDONE, Expired, Guard, Limits, Meter
from farfield.apps.retrieval.serving_encoder import Unloadable
from farfield.apps.retrieval.store import Damaged, Unavailable
from farfield.apps.training.errors import UserError

log = logging.getLogger(__name__)
# Names by which clients of Together's M2-BERT endpoints ask; the index's own encoder answers them.
ALIASES = tuple(f"togethercomputer/m2-bert-80M-{size}-retrieval" for size in ("2k", "8k", "32k"))
# Ids of another tokenizer would become another text, and its vector would be wrong in silence.
TOKEN_IDS = (
    "input: token ids came, and nothing says of which tokenizer; a text or a list of texts is accepted (LangChain's"
    " OpenAIEmbeddings sends texts with check_embedding_ctx_length=False)"
)
# No tokenizer makes more tokens of a character: NFKC makes at most 18 characters of one.
TOKENS_OF_A_CHARACTER = 20
Id = Annotated[str, Path(min_length=1, max_length=512)]


class Strict(BaseModel):
    """A body whose unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class SearchBody(Strict):
    """A search, as of `Collection.search`."""

    query: StrictStr
    k: int = Field(default=10, ge=1, le=1000, strict=True)
    mode: Literal["hybrid", "dense", "bm25"] = "hybrid"
    by: Literal["best", "window", "whole"] = "best"
    filters: dict[str, Any] = Field(default_factory=dict)


class DocumentBody(Strict):
    """A document to write."""

    id: StrictStr = Field(min_length=1, max_length=512)
    text: StrictStr
    title: StrictStr = ""
    metadata: dict[str, Any] = Field(default_factory=dict)


class DocumentsBody(Strict):
    """Documents to write in one transaction."""

    documents: list[DocumentBody] = Field(min_length=1)


class OpenAIBody(BaseModel):
    """OpenAI's request of embeddings."""

    input: StrictStr | list[StrictStr] | list[StrictInt] | list[list[StrictInt]]
    model: StrictStr = "farfield"
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: StrictInt | None = None
    user: StrictStr | None = None


class TEIBody(BaseModel):
    """TEI's request of embeddings."""

    inputs: StrictStr | list[StrictStr]
    normalize: bool = True
    truncate: bool = False
    prompt_name: StrictStr | None = None


class Refused(Exception):
    """An answer with a status, a kind and a reason."""

    def __init__(self, status: int, kind: str, reason: str) -> None:
        self.status, self.kind, self.reason = status, kind, reason


def service(
    collection: Collection, limits: Limits | None = None, token: str | None = None, meter: Meter | None = None
) -> FastAPI:
    """The application of an index.

    Args:
        collection: The opened index.
        limits: Of a request.
        token: Bearer token; None asks for none.
        meter: Counts requests; until its `loaded` is set, all but the page and /health answer 503. None is one that is.
    """
    limits = limits or Limits()
    if meter is None:
        meter = Meter()
        meter.loaded.set()
    searches = SearchThreads(collection)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        searches.close()

    app = FastAPI(title="farfield retrieval", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(Guard, limits=limits, token=token, meter=meter)
    _errors(app, collection, meter)
    _search(app, collection, limits, searches)
    _documents(app, collection, limits)
    _embeddings(app, collection, limits)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def page() -> HTMLResponse:
        return HTMLResponse(PAGE, headers={"Content-Security-Policy": POLICY})

    @app.get("/health")
    def health() -> JSONResponse:
        """Can it answer, and what does it hold? status is ok, or 503 and loading or damaged."""
        held = _held(collection, meter)
        held["background_merge"] = "ok" if collection.merge_error is None else "failed"
        status = "damaged" if meter.damaged else "ok" if meter.loaded.is_set() else "loading"
        return JSONResponse({"status": status, **held}, 200 if status == "ok" else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> str:
        """Prometheus' text format."""
        held = _held(collection, meter)
        held |= {"merge_failed": collection.merge_error is not None, "damaged": meter.damaged}
        return meter.text({name: value for name, value in held.items() if name != "encoder"})

    return app


def _held(collection: Collection, meter: Meter) -> dict[str, Any]:
    """What is in the index, as far as it can be read."""
    try:
        view = collection.view()
        counts = {"documents": len(collection), "vectors": view.rows, "segments": len(view.parts) - 1}
        return {**counts, "delta_vectors": view.parts[-1].n, "encoder": view.digest}
    except Damaged:
        meter.damaged = True
        return {}


def _search(app: FastAPI, collection: Collection, limits: Limits, searches: SearchThreads) -> None:
    @app.post("/search", response_model=dict[str, Any])
    async def search(body: SearchBody) -> Response:
        """The best documents, each with its best window, the window's characters and both cosines."""
        if _many([body.query], limits):
            await run_in_threadpool(_check_tokens, collection, [body.query], limits)
        answer = searches.ask(Search(body.query, body.k, body.mode, body.by, body.filters))
        return Response(await asyncio.wrap_future(answer), media_type="application/json")


def _documents(app: FastAPI, collection: Collection, limits: Limits) -> None:
    @app.post("/documents")
    def write(body: DocumentsBody, request: Request) -> dict[str, Any]:
        """Write documents: on disk and searchable when it answers 200, not stored when it answers anything else.

        Those of known ids are replaced; what is there already is left, so a write that got no answer may be sent again.
        """
        _check_batch(len(body.documents), limits)
        documents = [Document(d.id, d.text, title=d.title, metadata=d.metadata) for d in body.documents]
        if _many(texts := [d.text for d in documents], limits):
            _check_tokens(collection, texts, limits)
        return asdict(collection.add(documents, check=request.scope["deadline"].check))

    @app.get("/documents/{id:path}")
    def read(id: Id) -> dict[str, Any]:
        """A document."""
        found = collection.get(id)
        if found is None:
            raise Refused(404, "not_found", "there is no document of that id")
        return {"id": found.id, "title": found.title, "text": found.text, "metadata": dict(found.metadata)}

    @app.delete("/documents/{id:path}")
    def delete(id: Id, request: Request) -> dict[str, Any]:
        """Delete a document with all that belongs to it."""
        if not collection.delete([id], check=request.scope["deadline"].check):
            raise Refused(404, "not_found", "there is no document of that id")
        return {"deleted": id}


def _embeddings(app: FastAPI, collection: Collection, limits: Limits) -> None:
    @app.post("/v1/embeddings")
    def openai(body: OpenAIBody) -> dict[str, Any]:
        """Vectors of texts, in OpenAI's form; a text longer than a window is the mean of its windows."""
        texts = [body.input] if isinstance(body.input, str) else [one for one in body.input if isinstance(one, str)]
        if isinstance(body.input, list) and len(texts) < len(body.input):
            raise Refused(422, "validation", TOKEN_IDS)
        _check_batch(len(texts), limits)
        encoder = collection.encoder
        if body.dimensions not in (None, encoder.d):
            raise Refused(422, "validation", f"dimensions={body.dimensions}: this encoder has {encoder.d}")
        total = _check_tokens(collection, texts, limits)
        rows = [made.whole for made in encoder.encode(texts, policy="chunk")] if texts else []
        as_text = body.encoding_format == "base64"
        data = [
            {
                "object": "embedding",
                "index": i,
                "embedding": base64.b64encode(row.astype("<f4").tobytes()).decode() if as_text else row.tolist(),
            }
            for i, row in enumerate(rows)
        ]
        usage = {"prompt_tokens": total, "total_tokens": total}
        return {"object": "list", "data": data, "model": body.model, "usage": usage}

    @app.post("/embed")
    def embed(body: TEIBody) -> list[list[StrictFloat]]:
        """Vectors of texts, in TEI's form; a text longer than a window is an error unless truncate is set."""
        texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
        _check_batch(len(texts), limits)
        _check_tokens(collection, texts, limits)
        if not texts:
            return []
        encoded = collection.encoder.encode(texts, policy="truncate" if body.truncate else "error")
        return np.stack([made.whole for made in encoded]).astype(float).tolist()  # type: ignore[no-any-return]


def _check_batch(count: int, limits: Limits) -> None:
    if count > limits.batch:
        raise Refused(413, "batch", f"{count} texts came, at most {limits.batch} are accepted; send them in parts")


def _many(texts: list[str], limits: Limits) -> bool:
    """Could these be more tokens than the limit, by their length?"""
    return sum(map(len, texts)) * TOKENS_OF_A_CHARACTER > limits.tokens


def _check_tokens(collection: Collection, texts: list[str], limits: Limits) -> int:
    """Tokens of all texts; one that is far above the limit by its length is not tokenised at all."""
    characters = sum(map(len, texts))
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise Refused(422, "validation", f"character {error.start} is half a surrogate pair") from None
    if characters > 40 * limits.tokens:
        raise Refused(422, "tokens", f"{characters} characters came, at most {limits.tokens} tokens are accepted")
    total = sum(collection.encoder.count_tokens(texts)) if texts else 0
    if total > limits.tokens:
        raise Refused(422, "tokens", f"{total} tokens came, at most {limits.tokens} are accepted; send them in parts")
    return total


def _errors(app: FastAPI, collection: Collection, meter: Meter) -> None:
    """Every error is JSON with a reason, and names no path of the server."""

    def answer(status: int, kind: str, reason: str) -> JSONResponse:
        clean = reason.encode("utf-8", "replace").decode()
        headers = {"Retry-After": "1"} if status == 503 else None
        return JSONResponse({"error": clean, "error_type": kind}, status, headers=headers)

    @app.exception_handler(Refused)
    def refused(_: Request, error: Refused) -> JSONResponse:
        return answer(error.status, error.kind, error.reason)

    @app.exception_handler(StarletteHTTPException)
    def http(_: Request, error: HTTPException) -> JSONResponse:
        return answer(error.status_code, "http", str(error.detail))

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        reasons = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        return answer(422, "validation", "; ".join(reasons[:5]))

    @app.exception_handler(Expired)
    def expired(_: Request, __: Expired) -> JSONResponse:
        return answer(503, "timeout", f"too much time; {UNDONE}")

    @app.exception_handler(UserError)
    def user(_: Request, error: UserError) -> JSONResponse:
        if isinstance(error, Unavailable):
            return answer(
                503, "unavailable", "the index cannot be written to (disk full, or locked); nothing was stored"
            )
        if isinstance(error, Damaged):
            meter.damaged = True
            return answer(503, "damaged", "a file of the index is damaged; its owner finds out more with action=verify")
        if isinstance(error, Unloadable) or str(collection.folder) in str(error):
            log.error("%s", error)
            return answer(503, "unavailable", "the encoder of the index cannot be loaded; the service's log says why")
        return answer(422, "truncated" if isinstance(error, TruncatedText) else "validation", str(error))
