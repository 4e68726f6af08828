"""gunicorn's worker, answering in JSON even what never reaches Flask."""

import socket

import orjson
from gunicorn import util
from gunicorn.workers.ggevent import GeventWorker


def write_json_error(client: socket.socket, status: int, reason: str, _: str) -> None:
    """Answer a request that gunicorn cannot read (bad version, 431, bad length) in our JSON."""
    body = orjson.dumps({"success": False, "error": reason})
    head = (
        f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    util.write_nonblock(client, head.encode() + body)


# gunicorn has no setting for its error page, and its one function for it is looked up here.
util.write_error = write_json_error


class JsonGeventWorker(GeventWorker):  # type: ignore[misc]
    """A gevent worker with that error page."""
