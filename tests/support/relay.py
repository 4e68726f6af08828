"""A relay between an example and the service: it refuses, drops, delays and writes down."""

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.support.threaded import running

DROP = 0  # instead of a status: the connection is closed without an answer


@dataclass
class Relayed:
    """What went through: each request's path and answer, and when it came; and at once at most."""

    url: str = ""
    paths: list[str] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    came: list[float] = field(default_factory=list)
    running: int = 0
    at_once: int = 0


@contextmanager
def relay(
    url: str,
    refusals: Sequence[int] = (),
    retry_after: str | None = "1",
    is_held: bool = False,
    dropped: str | None = None,
) -> Iterator[Relayed]:
    """Relay to the service, after refusing once with each status; yields what went through.

    `/provider` is answered here, as by whoever signs users in; `/seen` with the number of requests
    so far. With `is_held` registrations wait for `/release` or `/provider`. A path that ends in
    `dropped` gets no answer.
    """
    seen = Relayed()
    lock = threading.Lock()
    released = threading.Event()
    if not is_held:
        released.set()

    class Relay(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with lock:
                place = len(seen.paths)
                seen.paths.append(self.path)
                seen.came.append(time.time())
                seen.running += 1
                seen.at_once = max(seen.at_once, seen.running)
            if self.path.endswith("/push.token"):
                released.wait(60)
            status, answer = self._answer(body, refusals[place] if place < len(refusals) else None)
            with lock:
                seen.running -= 1
                seen.statuses.append(status)
            if status == DROP:
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            if retry_after:
                self.send_header("Retry-After", retry_after)
            self.end_headers()
            self.wfile.write(answer)

        def do_GET(self) -> None:
            if self.path not in ("/seen", "/release"):
                self.do_POST()
                return
            if self.path == "/release":
                released.set()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"%d" % len(seen.paths))

        def _answer(self, body: bytes, refusal: int | None) -> tuple[int, bytes]:
            if refusal is not None or (dropped and self.path.endswith(dropped)):
                return refusal or DROP, b'{"success":false,"error":"busy"}'
            if self.path == "/provider":
                released.set()
                return 200, b"1"
            headers = {n: v for n, v in self.headers.items() if n.lower() != "host"}
            onward = urllib.request.Request(url + self.path, body, headers, method=self.command)
            try:
                with urllib.request.urlopen(onward, timeout=60) as response:
                    return response.status, response.read()
            except urllib.error.HTTPError as error:
                return error.code, error.read()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Relay)
    with running(server):
        seen.url = f"http://127.0.0.1:{server.server_port}"
        yield seen
