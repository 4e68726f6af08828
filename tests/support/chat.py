"""A server that plays Rocket.Chat's `GET /api/v1/me`, with the faults that a test scripts."""

import json
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.support.threaded import running

UNAUTHORIZED = "You must be logged in to do this."
ERAS = {
    "A": {"status": "error", "message": UNAUTHORIZED},
    "7.x": {"success": False, "error": UNAUTHORIZED, "status": "error", "message": UNAUTHORIZED},
    "8.0": {"success": False, "error": UNAUTHORIZED},
}

Fault = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers a request, by the script where there is one."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_GET(self) -> None:
        self.user = self.headers.get("X-User-Id", "").encode("latin-1").decode()
        self.secret = self.headers.get("X-Auth-Token", "")
        with self.server.mutex:
            self.server.asked[self.secret] += 1
            self.server.paths.append(self.path)
        with suppress(OSError):
            self.server.fault(self)

    def say(self, status: int, body: object, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


def honest(handler: Handler) -> None:
    """Answer as Rocket.Chat does."""
    if handler.server.signed_in.get(handler.secret) == handler.user and handler.user:
        handler.say(200, {"_id": handler.user, "username": "x", "success": True})
    else:
        handler.say(401, ERAS[handler.server.era])


class Server(ThreadingHTTPServer):
    """Whom it knows, what it was asked, and how it misbehaves."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256
    handler = Handler

    def __init__(self, port: int = 0):
        super().__init__(("127.0.0.1", port), self.handler)
        self.mutex = threading.Lock()
        self.signed_in: dict[str, str] = {}
        self.asked: Counter[str] = Counter()
        self.paths: list[str] = []
        self.fault: Fault = honest
        self.era = "A"
        self.scheme = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        pass

    def encrypt(self, certificate: Path, key: Path) -> None:
        """Speak TLS."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.scheme = "https"


@contextmanager
def chat(port: int = 0) -> Iterator[Server]:
    """Run it until the end of the `with`."""
    server = Server(port)
    with running(server):
        yield server


def answer(status: int, body: object, **headers: str) -> Fault:
    """Give the same answer to everybody."""
    return lambda handler: handler.say(status, body, **headers)


def hang(handler: Handler) -> None:
    """Say nothing for a while."""
    time.sleep(3)


def drop(handler: Handler) -> None:
    """Close the connection without a word."""
    handler.close_connection = True


def trickle_head(handler: Handler) -> None:
    """Send a byte now and then, so that no single wait is long."""
    for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 100:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        time.sleep(0.05)


def trickle_body(handler: Handler) -> None:
    """The same with the body."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


def cut_short(handler: Handler) -> None:
    """Close before the body is complete."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(json.dumps({"_id": handler.user, "success": True}).encode())
    handler.close_connection = True


def endless(handler: Handler) -> None:
    """Send a body that does not end."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for _ in range(10_000):
        handler.wfile.write(b"10000\r\n" + b" " * 65536 + b"\r\n")


def no_http(handler: Handler) -> None:
    """Speak something else."""
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")
    handler.close_connection = True


def wrong_user(handler: Handler) -> None:
    """Confirm somebody else."""
    handler.say(200, {"_id": f"{handler.user}x", "success": True})


FAULTS: dict[str, Fault] = {
    "hang": hang,
    "drop": drop,
    "trickle_head": trickle_head,
    "trickle_body": trickle_body,
    "cut_short": cut_short,
    "endless": endless,
    "no_http": no_http,
    "wrong_user": wrong_user,
    "html": answer(200, b"<html>Welcome</html>"),
    "html_401": answer(401, b"<html>Who are you?</html>"),
    "text_401": answer(401, "Unauthorized"),
    "not_an_object": answer(200, [1]),
    "no_success": lambda h: h.say(200, {"_id": h.user}),
    "success_false": lambda h: h.say(200, {"_id": h.user, "success": False}),
    "success_text": lambda h: h.say(200, {"_id": h.user, "success": "true"}),
    "invalid_json": answer(200, b'{"_id": '),
    "not_utf8": answer(200, b'{"_id": "\xff\xfe"}'),
    "deep_json": answer(200, b"[" * 100_000),
    "created": lambda h: h.say(201, {"_id": h.user, "success": True}),
    "forbidden": answer(403, {"success": False, "error": "unauthorized"}),
    "not_found": answer(404, {"success": False}),
    "too_many": answer(429, {"success": False, "error": "error-too-many-requests"}),
    "broken": answer(500, {"success": False, "error": "Internal server error"}),
    "bad_gateway": answer(502, b"<html>502</html>"),
    "unavailable": answer(503, b"Service Unavailable"),
    "gateway_timeout": answer(504, b""),
}
