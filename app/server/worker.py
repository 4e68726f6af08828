"""gunicorn's worker, answering in JSON even what never reaches Flask."""

import socket
import time
from contextlib import suppress
from functools import lru_cache
from typing import Any

import gevent
import orjson
from gunicorn import util
from gunicorn.http.errors import ParseException
from gunicorn.workers.ggevent import GeventWorker

MAX_UNSENT = 64 * 1024  # bytes of an answer; more is not kept back
MAX_UNREAD = 1024 * 1024  # bytes; who sends more is cut off


def write_json_error(client: socket.socket, status: int, reason: str, _: str) -> None:
    """Answer a request that gunicorn cannot read (bad version, 431, bad length) in our JSON."""
    body = orjson.dumps({"success": False, "error": reason})
    head = (
        f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    util.write_nonblock(client, head.encode() + body)


_date_of = lru_cache(1)(util.http_date)


def http_date(timestamp: float | None = None) -> str:
    """Write a moment (seconds since 1970; now) as a header does, anew once a second."""
    written: str = _date_of(int(time.time() if timestamp is None else timestamp))
    return written


# gunicorn has no setting for its error page nor its clock, and looks both functions up here.
util.write_error = write_json_error
util.http_date = http_date


class OneSend:
    """A client's socket that sends an answer in one piece.

    gunicorn sends head and body apart: two system calls, and a client that is woken twice.
    """

    def __init__(self, client: socket.socket):
        self._client = client
        self._unsent = b""

    def __getattr__(self, name: str) -> Any:
        self.flush()  # whatever else is done with the socket comes after what was written
        return getattr(self._client, name)

    def sendall(self, data: bytes) -> None:
        """Keep what is to be sent until `flush`, or until it is a lot."""
        self._unsent += data
        if len(self._unsent) > MAX_UNSENT:
            self.flush()

    def flush(self) -> None:
        """Send what was kept."""
        if self._unsent:
            unsent, self._unsent = self._unsent, b""
            # Nearly always all of it; gevent's sendall asks for the buffer's size first.
            sent = self._client.send(unsent)
            if sent < len(unsent):
                self._client.sendall(unsent[sent:])


class JsonGeventWorker(GeventWorker):  # type: ignore[misc]
    """A gevent worker with that error page, whose clients see the answer to a refused body."""

    def handle_request(self, listener: Any, req: Any, sock: Any, addr: Any) -> None:
        """Serve a request, and read what was refused unread.

        A socket that is closed with bytes unread resets the connection, and the client may never
        see the 401 or 413 that it was sent.
        """
        client = OneSend(sock)
        try:
            super().handle_request(listener, req, client, addr)
        finally:
            with suppress(OSError):
                client.flush()
            # Nothing is left of a body whose length was given and read.
            if getattr(req.body.reader, "length", None) != 0:
                with gevent.Timeout(1, False), suppress(OSError, ParseException):
                    req.body.read(MAX_UNREAD)
