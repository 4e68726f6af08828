"""HTTP on one connection: uvicorn's protocol, with limits and deadlines.

uvicorn leaves both to a proxy. Here a head over 16 KiB is 431, its first line 414, and a request
that is not complete in time 408; what cannot be read at all is answered in our JSON, too. A
half-closed client gets its answer, and so does the sender of a body that is refused.
"""

import asyncio
from functools import partial
from typing import Any, NamedTuple, cast

import httptools
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from app.api import bodies, errors
from app.api.request_log import CREDENTIALS, UNKNOWN, RequestRecord, without_secret
from app.server.front import refusal
from app.server.wsgi import Answer

MAX_LINE = 8190  # bytes of a path and query: a push token of 2,048 bytes, percent-encoded, fits
MAX_HEAD = 16 * 1024  # bytes
MAX_FIELDS = 100  # of a head
# Bytes of a refused body that are read, so that its answer arrives: as many as nginx lets through,
# which answers 502 itself when it cannot send the whole.
MAX_UNREAD = max(bodies.BODY_LIMITS.values()) + 1024 * 1024
MAX_CONNECTIONS = 4096  # of a worker
REQUEST_SECONDS = 20.0  # from the first byte of a request to the last of its body
WRITE_SECONDS = 30.0  # in which a client must take something of an answer
LAST_WRITE_SECONDS = 2.0  # the same when the worker ends
LINGER_SECONDS = 5.0  # in which the rest of a refused body is read
LAST_SECONDS = 0.5  # in which a worker that ends waits for one request more of a connection
NEVER = float("inf")
TEXTS = {414: "Request URI too long"}
# For the log; where nothing stands here, the answer says it.
REASONS = {
    400: "what came is no request that can be read",
    408: f"not complete within {REQUEST_SECONDS:.0f} s of its first byte",
    503: f"over {MAX_CONNECTIONS} connections",
}

_CREDENTIALS = [name.lower().encode() for name in CREDENTIALS]


class Head(NamedTuple):
    """The head of a request; `fields` has the last of several headers of one name."""

    url: bytes
    version: str
    fields: dict[bytes, bytes]
    headers: list[tuple[bytes, bytes]]
    record: RequestRecord
    keep_alive: bool


class Lingering:
    """A transport that is closed by the protocol, when the answer has arrived."""

    def __init__(self, transport: asyncio.Transport, protocol: "LimitedProtocol"):
        self._write = transport.write
        self.is_closing = transport.is_closing
        self.get_extra_info = transport.get_extra_info
        self.close = protocol.finish

    def write(self, data: bytes) -> None:
        """Send, unless the client has just left: uvloop takes that for a mistake of ours."""
        if not self.is_closing():
            self._write(data)


class LimitedProtocol(HttpToolsProtocol):
    """One connection, from its first byte to its last."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.deadline = NEVER  # of the loop's clock, when `expire` is called
        self._in_head = self._in_body = False
        self._head_bytes = 0
        self._beside_body = 0  # bytes since the last one of a body: sizes of chunks, or trailers
        self._refusal: int | None = None  # the status to answer once what is before is answered
        self._is_refused = False  # nothing more is parsed
        self._record: RequestRecord | None = None  # of the last head
        self._is_upgrade = False  # the client wants another protocol
        self._is_chunked = False  # as the body of the last head is
        self._is_ended = False  # the client sends no more
        self._is_last = False  # the worker ends
        self._unread: int | None = None  # bytes read of what is of no use

    @property
    def _is_busy(self) -> bool:
        """Tell whether a request waits for its answer, or for the rest of its body."""
        return self.cycle is not None and not self.cycle.response_complete

    # What the transport calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # TCP
        """Begin with a connection."""
        super().connection_made(transport)
        self._raw = transport
        self.transport = cast(asyncio.Transport, Lingering(transport, self))
        self.deadline = self.loop.time() + REQUEST_SECONDS
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(503)

    def data_received(self, data: bytes) -> None:
        """Take what came; answer what cannot be read."""
        if self._unread is not None:
            self._unread += len(data)
            if self._unread > MAX_UNREAD:
                self._raw.abort()
            return
        if self._is_refused:
            return
        if not (self._in_head or self._in_body):
            self.deadline = self.loop.time() + REQUEST_SECONDS
            self._head_bytes = 0
            self._in_head = True
        if self._in_head:
            self._head_bytes += len(data)
        self._beside_body += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._read_without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._break()
        if self._in_head:
            self._check_head(self._head_bytes)
        elif self._in_body and self._is_chunked and self._beside_body > MAX_HEAD:
            self._break()

    def eof_received(self) -> bool:  # type: ignore[override]  # None there
        """Note that the client sends no more; it may still wait for its answer."""
        self._is_ended = True
        if self._head_bytes and (self._in_head or self._in_body):
            self._break()
        return self._is_busy

    def connection_lost(self, exc: Exception | None) -> None:
        """End with a connection."""
        self.deadline = NEVER
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Give the client some time to take what was sent."""
        super().pause_writing()
        seconds = LAST_WRITE_SECONDS if self._is_last else WRITE_SECONDS
        self.deadline = self.loop.time() + seconds

    def resume_writing(self) -> None:
        """Go on sending."""
        super().resume_writing()
        self.deadline = NEVER

    # What the worker and the server call

    def expire(self) -> None:
        """Do what is due at the deadline."""
        self.deadline = NEVER
        if self._unread is not None or self.flow.write_paused:
            self._raw.abort()
        elif self._in_head and self._head_bytes:
            self._refuse(408)
        elif self._in_body and not self.pipeline:
            self._drop()
            self._refuse(408, self._record)
        elif not self._is_busy:
            self._raw.close()

    def shutdown(self) -> None:
        """Answer what was begun, and one request that the client may be sending right now."""
        self._is_last = True
        if self.cycle is not None:
            self.cycle.keep_alive = False
        if not self._is_busy or self._in_body:
            self.deadline = min(self.deadline, self.loop.time() + LAST_SECONDS)
        elif self.flow.write_paused:
            self.deadline = min(self.deadline, self.loop.time() + LAST_WRITE_SECONDS)

    def finish(self) -> None:
        """Close the connection; first read what the client still sends of a refused request.

        A socket that is closed with bytes unread resets the connection, and the client may never
        see its answer.
        """
        if self._raw.is_closing() or self._unread is not None:
            return
        if self._is_ended or self._is_last or not (self._in_body or self._is_refused):
            self._raw.close()
            return
        self._unread = 0
        self._raw.write_eof()
        self.flow.resume_reading()
        self.deadline = self.loop.time() + LINGER_SECONDS

    # What the parser calls

    def on_message_begin(self) -> None:
        """Begin with a request."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._in_head = True

    def on_headers_complete(self) -> None:
        """Choose the way of a request by its head."""
        self._in_head, self._in_body = False, True
        self._is_upgrade = self.parser.should_upgrade()
        if self._is_upgrade:
            return
        self._check_head(sum(len(name) + len(value) + 4 for name, value in self.headers))
        # What follows a body in chunks is no part of the head (RFC 9110, 6.5.1): it is forgotten.
        headers, self.headers = self.headers, []
        fields = dict(headers)
        self._is_chunked, self._beside_body = b"transfer-encoding" in fields, 0
        method, version = (
            self.parser.get_method().decode("latin-1"),
            self.parser.get_http_version(),
        )
        if given_id := fields.get(b"x-request-id", b"").decode("latin-1"):
            credentials = (fields.get(name, b"").decode("latin-1") for name in _CREDENTIALS)
            given_id = without_secret(given_id, *credentials)
        claim = fields.get(b"x-user-id", b"").decode("latin-1")
        record = self._record = RequestRecord(method, given_id=given_id, claim=claim)
        if fields.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
            self._refuse(400, record)  # the parser would take it for a body without an end
        if self._is_refused:
            return
        keep_alive = version != "1.0" and self.parser.should_keep_alive() and not self._is_last
        self._begin(Head(self.url, version, fields, headers, record, keep_alive))

    def _begin(self, head: Head) -> None:
        """Give a request to the application, after those that came before it."""
        cycle = self._new_cycle(head)
        is_waiting = self._is_busy
        self.cycle = cycle
        if is_waiting:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))
        else:
            self._start_asgi_task(cycle, self.app)

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._beside_body = 0
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that a body is complete."""
        if self._is_upgrade:
            return
        self._note_complete()
        if not self._is_refused and self._is_busy:
            super().on_message_complete()

    def _note_complete(self) -> None:
        self._in_body = False
        self._head_bytes = 0
        self.deadline = NEVER

    def on_response_complete(self) -> None:
        """Go on with the next request of the connection, or wait for one."""
        self.server_state.total_requests += 1
        if self._raw.is_closing() or self._unread is not None:
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            if self._in_body and not self.pipeline:  # the end of what was before it took its own
                self.deadline = self.loop.time() + REQUEST_SECONDS
        elif self._refusal:
            self._write_refusal(self._refusal)
        elif self._in_body or self._is_last or self._is_ended:
            self.finish()
        elif self._in_head:
            self.deadline = self.loop.time() + REQUEST_SECONDS
        else:
            self.deadline = self.loop.time() + self.timeout_keep_alive

    def _new_cycle(self, head: Head) -> RequestResponseCycle:
        """Make what uvicorn keeps of a request; its scope has what the front asks for."""
        path, query = _split(head.url)
        scope: Any = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": head.version,
            "method": head.record.method,
            "path": path.decode("latin-1"),
            "raw_path": path,
            "query_string": query,
            "headers": head.headers,
            "state": {"record": head.record, "transport": self._raw, "flow": self.flow},
        }
        cycle = RequestResponseCycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=head.keep_alive,
            on_response=self.on_response_complete,
        )
        scope["state"]["cut"] = partial(self._cut, cycle)
        return cycle

    def _cut(self, cycle: RequestResponseCycle) -> None:
        """Close the connection in the middle of an answer, of which the log has told."""
        cycle.disconnected = True
        self._raw.close()

    def _read_without_upgrade(self, rest: bytes) -> None:
        """Read a request that wants another protocol as if it did not.

        The parser takes all after its head for the other protocol's; so another parser gets the
        head without that wish. CONNECT is one by itself, and refused.
        """
        if self.parser.get_method() == b"CONNECT":
            self._refuse(405)
            return
        line = b"%s %s HTTP/%s" % (
            self.parser.get_method(),
            self.url,
            self.parser.get_http_version().encode(),
        )
        wishes = (b"upgrade", b"connection")
        kept = [b"%s: %s" % field for field in self.headers if field[0] not in wishes]
        self._is_upgrade = self._in_body = False
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join((line, *kept, b"connection: close", b"", rest)))

    def _check_head(self, size: int) -> None:
        if len(self.url) > MAX_LINE:
            self._refuse(414)
        elif size > MAX_HEAD or len(self.headers) > MAX_FIELDS:
            self._refuse(431)

    def _break(self) -> None:
        """Answer a request that ends early or that cannot be read on.

        Where its head was right the view answers, so that a 401 goes before the 400.
        """
        if not self._in_body or self._is_refused:
            self._refuse(400)
            return
        self._is_refused = True
        self.cycle.keep_alive = False
        self._break_body()

    def _break_body(self) -> None:
        """Tell the application that the rest of a body does not come."""
        self.cycle.scope["state"]["is_broken"] = True
        self.cycle.more_body = False
        self.cycle.message_event.set()

    def _drop(self) -> None:
        """Forget the request whose body does not come."""
        self.cycle.disconnected = self.cycle.response_complete = True
        self.cycle.message_event.set()

    def _refuse(self, status: int, record: RequestRecord | None = None) -> None:
        """Answer a request by its status alone, after those before it, and read no further."""
        if self._is_refused:
            return
        self._is_refused = True
        if self._is_busy:
            self._refusal = status
        else:
            self._write_refusal(status, record)

    def _serialized(self, answer: Answer, keep_alive: bool) -> bytes:
        lines = [STATUS_LINE[answer.status]]
        for name, value in (*self.server_state.default_headers, *answer.headers):
            lines += (name, b": ", value, b"\r\n")
        if not keep_alive:
            lines.append(b"connection: close\r\n")
        return b"".join((*lines, b"\r\n", answer.body))

    def _write_refusal(self, status: int, record: RequestRecord | None = None) -> None:
        self._refusal = None
        error = errors.refused(status, TEXTS.get(status))
        error.reason = REASONS.get(status)
        answer = refusal(error, record or RequestRecord(UNKNOWN))
        self.transport.write(self._serialized(answer, keep_alive=False))
        self.finish()


def _split(url: bytes) -> tuple[bytes, bytes]:
    """Return path and query of a request's target, of whatever form (RFC 9112, 3.2)."""
    if url[:1] != b"/" and b"://" in url:
        url = b"/" + url.partition(b"://")[2].partition(b"/")[2]
    path, _, query = url.partition(b"#")[0].partition(b"?")
    return path, query
