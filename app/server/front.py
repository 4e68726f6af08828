"""The ASGI application before Flask: it reads bodies, and gives complete requests to threads.

A body is complete before a thread is taken, so that a slow client costs some bytes and no thread;
one over 64 KiB is read only after its service key was checked. `/healthz` is answered by the event
loop itself, whatever threads and database do.
"""

import asyncio
import io
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any

import orjson
from flask import Flask

from app import metrics, services
from app.api import bodies, cors, errors, monitoring, request_log
from app.api.request_log import RequestRecord
from app.database.failures import UnavailableError
from app.identity.rocketchat import MAX_CONNECTIONS
from app.server import wsgi
from app.server.group_commit import GroupCommit
from app.server.threads import Threads
from app.server.wsgi import Answer

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MAX_QUEUED = 500  # requests that wait for a thread; more would only wait to be too late
MAX_BUFFERED = 40 * 1024 * 1024  # bytes of bodies up to LARGE that a worker keeps at a time
# Bytes of a body that is read and parsed while others of its size are not read on: orjson takes
# five times as much while it parses.
LARGE = 1024 * 1024
MAX_UNTAKEN = 32 * 1024 * 1024  # bytes of long answers that wait for their clients to take them


class GoneError(Exception):
    """The client has closed the connection."""


class Front:
    """The ASGI application of one worker, and what its requests share."""

    def __init__(self, app: Flask, is_draining: Callable[[], bool] = lambda: False):
        """Begin to serve; `/readyz` is 503 from when `is_draining` says so."""
        self._app = app
        self._services = services.of(app)
        self._services.is_draining = is_draining
        settings = self._services.settings
        self.max_age = settings.recheck
        self._cors = cors.of(app)
        self.group_commit = GroupCommit(self._services.connect, settings)
        # No more than the pool has connections; those that ask Rocket.Chat hold none meanwhile.
        asking = MAX_CONNECTIONS if self._services.confirmation else 0
        number, seconds = settings.database_pool_size + asking, settings.request_deadline
        self._threads = Threads("request", number, MAX_QUEUED, seconds)
        self._monitoring = Threads("monitoring", 1, 20, seconds)
        self._large = asyncio.Lock()
        self._buffered = 0  # bytes of bodies that are not large
        self._untaken = 0  # bytes of long answers that their clients have not taken

        metrics.WORKERS_STARTED.inc()

    def observe(self) -> None:
        """Have the metrics know what only this process can tell; called a few times a second."""
        metrics.OLDEST_WAIT.set(self._threads.oldest_wait())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request (ASGI)."""
        record: RequestRecord = scope["state"]["record"]
        try:
            if scope["raw_path"] == b"/healthz" and scope["method"] == "GET":
                record.route = "/healthz"
                record.end(200)
                answer = json_answer(200, monitoring.ALIVE, record)
            else:
                answer = await self._answer(scope, receive, record)
        except GoneError:
            return
        except Exception as error:  # whatever it is, the caller gets an answer
            answer = refusal(error, record)
            path, headers = scope["raw_path"], dict(scope["headers"])
            answer.headers.extend(self.cors_headers(path, headers))
        await self._send(answer, scope, send)

    def cors_headers(
        self, path: bytes, headers: Mapping[bytes, bytes]
    ) -> list[tuple[bytes, bytes]]:
        """Return the headers for other origins of an answer that Flask does not make."""
        if self._cors is None:
            return []
        origin = headers.get(b"origin", b"").decode("latin-1")
        found = self._cors.headers(path.decode("latin-1"), origin)
        return [(name.lower().encode(), value.encode("latin-1")) for name, value in found]

    def close(self) -> None:
        """Tell all who wait that the worker ends, and close connections and threads."""
        self.group_commit.close()
        for threads in (self._threads, self._monitoring):
            threads.close()
        with self._app.app_context():
            self._services.close()

    async def _answer(self, scope: Scope, receive: Receive, record: RequestRecord) -> Answer:
        environ = wsgi.environ_of(scope, scope["headers"])
        environ[request_log.KEY] = record
        is_monitoring = environ["PATH_INFO"] in ("/metrics", "/readyz")
        threads = self._monitoring if is_monitoring else self._threads
        async with AsyncExitStack() as stack:
            body, answer, is_complete = await self._read(scope, receive, environ, stack)
            if answer is None:
                is_broken = scope["state"].get("is_broken", False)
                environ["wsgi.input"] = wsgi.BrokenBody() if is_broken else io.BytesIO(body)
                del body
                answer = await threads.run(lambda: wsgi.call(self._app, environ))
        if not is_complete:
            answer.headers.append((b"connection", b"close"))
        return answer

    async def _read(
        self,
        scope: Scope,
        receive: Receive,
        environ: Mapping[str, Any],
        stack: AsyncExitStack,
    ) -> tuple[bytes, Answer | None, bool]:
        """Read a body as far as its limit and one byte more; tell if that is all of it.

        Returns the guard's answer instead where that refuses the caller. The stack gives back what
        a body takes of the worker's memory.
        """
        limit = bodies.limit_of(environ["PATH_INFO"])
        length = environ.get("CONTENT_LENGTH", "0")
        announced = int(length) if length.isdecimal() else 0
        if announced > limit:
            return b"", None, False  # Flask refuses it by its length
        body, is_known, is_large = bytearray(), False, False
        stack.callback(self._release, small := [0])
        while True:
            size = max(announced, len(body))
            if size > bodies.MAX_BODY and not is_known:
                refused = await self._threads.run(lambda: wsgi.guard(self._app, dict(environ)))
                if refused:
                    return b"", refused, False
                is_known = True
            if size > LARGE and not is_large:
                await stack.enter_async_context(self._large)
                is_large = True
            message = await receive()
            if message["type"] == "http.disconnect":
                raise GoneError
            body += message["body"]
            if not is_large:
                small[0] += len(message["body"])
                self._buffered += len(message["body"])
                if self._buffered > MAX_BUFFERED:
                    raise UnavailableError("too many bytes of bodies wait")
            if not message.get("more_body"):
                return bytes(body), None, True
            if len(body) > limit:
                return bytes(body), None, False

    def _release(self, size: list[int]) -> None:
        self._buffered -= size[0]

    async def _send(self, answer: Answer, scope: Scope, send: Send) -> None:
        """Send an answer, and see to it that long ones do not fill the memory.

        What clients have not taken of them is bounded: one too many becomes a 503.
        """
        size = len(answer.body) if len(answer.body) >= wsgi.PART else 0
        if size and self._untaken and self._untaken + size > MAX_UNTAKEN:
            await self._forget(answer)
            # The request's own line said 200.
            errors.log_cut_short(UnavailableError("too many long answers wait for their clients"))
            refused, record = errors.unavailable(), scope["state"]["record"]
            answer = json_answer(refused.code, refused.body, record, refused.headers)
            size = 0
        self._untaken += size
        try:
            start = {"status": answer.status, "headers": answer.headers}
            await send({"type": "http.response.start", **start})
            last = await self._send_parts(answer, scope, send) if answer.more else answer.body
            if last is not None:
                await send({"type": "http.response.body", "body": last})
            if size:
                await scope["state"]["flow"].drain()
        finally:
            self._untaken -= size

    async def _send_parts(self, answer: Answer, scope: Scope, send: Send) -> bytes | None:
        """Send an answer but for its end, and return that; None where it ends early.

        A further part is made when the client has taken the one before; if it left, none is.
        """
        _, _, body, more = answer
        assert more  # noqa: S101 (for mypy)
        try:
            while body:
                await send({"type": "http.response.body", "body": body, "more_body": True})
                del body
                await scope["state"]["flow"].drain()
                if scope["state"]["transport"].is_closing():
                    await self._forget(answer)
                    return None
                body = await self._threads.run(partial(more, True))
        except (bodies.CutShortError, UnavailableError) as error:
            if isinstance(error, UnavailableError):  # no thread was free; the other is logged
                errors.log_cut_short(error)
            scope["state"]["cut"]()  # without the end of the body, which tells the client
            return None
        return body

    async def _forget(self, answer: Answer) -> None:
        """End what makes the rest of an answer that nobody takes."""
        if answer.more:
            with suppress(UnavailableError):  # then it is ended when it is collected
                await self._threads.run(partial(answer.more, False))


def refusal(error: Exception, record: RequestRecord) -> Answer:
    """Return the answer to a request that Flask never saw, and end its record."""
    if isinstance(error, errors.ApiError):
        errors.note(record, error)
    else:
        error = errors.of_exception(error, record)
    record.end(error.code)
    return json_answer(error.code, error.body, record, error.headers)


def json_answer(
    status: int,
    body: object,
    record: RequestRecord,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Return an answer in JSON, with the request's id."""
    data = orjson.dumps(body)
    fields = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(data)),
        *wsgi.HEADERS,
        (b"x-request-id", record.request_id.encode()),
    ]
    for name, value in (headers or {}).items():
        fields.append((name.lower().encode(), value.encode()))
    return Answer(status, fields, data)
