"""What stands before every route: token, size, number and time of requests; and what Prometheus reads."""

from __future__ import annotations

import asyncio
import hmac
import json
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
# Routes that anyone may ask: the page holds no data, health no texts.
OPEN = frozenset(("/", "/health"))
UNDONE = "nothing of it was stored; ask for less at once"
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may ask for.

    Args:
        body: Bytes of a request: 413 above.
        batch: Documents, queries or inputs of a request: 413 above.
        tokens: Tokens of a request's texts: 422 above.
        concurrency: Requests at work: 429 above.
        seconds: Time of a request: 503 above, and what it was to write is not stored.
    """

    body: int = 2**25
    batch: int = 256
    tokens: int = 200_000
    concurrency: int = 64
    seconds: float = 60.0


class Expired(Exception):
    """A request is past its time: what it was about to write is undone."""


class Deadline:
    """Settles once whether a request is refused or done: a write that has begun to commit is waited for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._past = self._committing = False

    def check(self, last: bool) -> None:
        """Raises Expired where the request was refused; with last, it is not refused any more."""
        with self._lock:
            if self._past:
                raise Expired
            self._committing = self._committing or last

    def expire(self) -> bool:
        """Refuse the request; False where it commits already."""
        with self._lock:
            self._past = not self._committing
            return self._past


class Meter:
    """Counts and times of requests, as Prometheus reads them; and what /health has to know."""

    def __init__(self) -> None:
        self.loaded = threading.Event()
        self.damaged = False
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.buckets: Counter[tuple[str, float]] = Counter()
        self.seconds: Counter[str] = Counter()
        self.at_work = 0

    def note(self, method: str, route: str, status: int, seconds: float) -> None:
        """One request that is done; names that clients make up are counted together."""
        method = method if method in METHODS else "other"
        self.requests[(method, route, status)] += 1
        self.seconds[route] += seconds  # type: ignore[assignment]
        for edge in BUCKETS:
            if seconds <= edge:
                self.buckets[(route, edge)] += 1

    def text(self, gauges: dict[str, float]) -> str:
        """The exposition format 0.0.4."""
        lines = ["# HELP farfield_requests_total Requests answered, by route and status."]
        lines.append("# TYPE farfield_requests_total counter")
        for (method, route, status), count in sorted(self.requests.items()):
            lines.append(f'farfield_requests_total{{method="{method}",route="{route}",status="{status}"}} {count}')
        lines.append("# HELP farfield_request_seconds Time of requests in seconds.")
        lines.append("# TYPE farfield_request_seconds histogram")
        for route in sorted(self.seconds):
            total = sum(count for (_, of, _), count in self.requests.items() if of == route)
            for edge in BUCKETS:
                lines.append(
                    f'farfield_request_seconds_bucket{{route="{route}",le="{edge}"}} {self.buckets[(route, edge)]}'
                )
            lines.append(f'farfield_request_seconds_bucket{{route="{route}",le="+Inf"}} {total}')
            lines.append(f'farfield_request_seconds_sum{{route="{route}"}} {self.seconds[route]:.6f}')
            lines.append(f'farfield_request_seconds_count{{route="{route}"}} {total}')
        for name, value in {"requests_at_work": float(self.at_work), **gauges}.items():
            lines += [f"# TYPE farfield_{name} gauge", f"farfield_{name} {value:g}"]
        return "\n".join(lines) + "\n"


class Guard:
    """ASGI middleware that answers what must not reach the application.

    Args:
        app: The application.
        limits: Of a request.
        token: Bearer token that all routes but OPEN ask for; None asks for none.
        meter: Where requests are noted.
    """

    def __init__(self, app: App, limits: Limits, token: str | None, meter: Meter) -> None:
        self._app, self._limits, self._token, self._meter = app, limits, token, meter

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Nothing was answered: the client has gone.
        began, status, started = time.perf_counter(), 499, False

        async def noted(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
            await send(message)

        meter = self._meter
        if meter.at_work >= self._limits.concurrency:
            await refuse(noted, 429, "overloaded", f"{meter.at_work} requests are at work; ask again in a second")
            meter.note(scope["method"], "refused", 429, 0.0)
            return
        meter.at_work += 1
        try:
            if (refusal := self._forbidden(scope)) is not None:
                await refuse(noted, *refusal)
                return
            scope["deadline"] = deadline = Deadline()
            work = asyncio.ensure_future(self._pass(scope, receive, noted))
            await asyncio.wait((work,), timeout=self._limits.seconds)
            if not work.done() and deadline.expire():
                work.cancel()
                await asyncio.wait((work,))
            if work.cancelled():
                if not started:
                    await refuse(noted, 503, "timeout", f"more than {self._limits.seconds:g} s; {UNDONE}")
                return
            await work
        finally:
            meter.at_work -= 1
            route = getattr(scope.get("route"), "path", "unknown")
            meter.note(scope["method"], route, status, time.perf_counter() - began)

    def _forbidden(self, scope: Message) -> tuple[int, str, str] | None:
        headers = dict(scope["headers"])
        if not self._meter.loaded.is_set() and scope["path"] not in OPEN:
            return 503, "loading", "the encoder is being loaded; ask again in a second"
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._limits.body:
            return self._too_large()
        if self._token is not None and scope["path"] not in OPEN:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, b"Bearer " + self._token.encode()):
                return 401, "unauthorized", "a header Authorization: Bearer TOKEN is needed"
        return None

    def _too_large(self) -> tuple[int, str, str]:
        return 413, "too_large", f"a body of at most {self._limits.body} bytes is accepted; send it in parts"

    async def _pass(self, scope: Message, receive: Receive, send: Send) -> None:
        """Read the body up to its limit, then let the application answer."""
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._limits.body:
                await refuse(send, *self._too_large())
                return
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self._app(scope, replay, send)


async def refuse(send: Send, status: int, kind: str, reason: str) -> None:
    """A JSON answer with the reason."""
    headers = [(b"content-type", b"application/json")]
    headers += [(b"www-authenticate", b"Bearer")] if status == 401 else []
    headers += [(b"retry-after", b"1")] if status in (429, 503) else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    body = json.dumps({"error": reason, "error_type": kind}).encode()
    await send({"type": "http.response.body", "body": body})
