"""A thousand hostile requests over all calls, to the service itself and through nginx."""

import json
import re
import socket
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.activation import SocketUnit
from tests.support.factories import Caller, body
from tests.support.hostile import Hostile, requests, send
from tests.support.proxy import NO_LIMITS, Proxy, nginx

COUNT = 1200
SEED = 20261127
AT_ONCE = 4  # fewer than a worker has threads
# What a client that hangs up before it has sent all may get from nginx: nothing.
SILENT = {"through nginx", "through nginx, inside"}


@pytest.fixture(scope="module")
def unit(database_url: str) -> Iterator[SocketUnit]:
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        unit = SocketUnit(Path(folder) / "registry.sock")
        unit.start(database_url)
        yield unit
        unit.close()


@pytest.fixture(scope="module")
def site(unit: SocketUnit) -> Iterator[Proxy]:
    with nginx(unit.path.parent / "n", unit.path, changes=NO_LIMITS) as proxy:
        yield proxy


@pytest.fixture
def connect(unit, site) -> dict[str, Callable[[], socket.socket]]:
    """The ways to the service, each with a function that opens a connection."""

    def direct() -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(30)
        client.connect(str(unit.path))
        return client

    return {
        "direct": direct,
        "through nginx": lambda: socket.create_connection(("127.0.0.1", site.public), 30),
        "through nginx, inside": lambda: socket.create_connection(
            ("127.0.0.1", site.internal), 30
        ),
    }


def status(answer: bytes) -> int:
    """Return the status of an answer, whose body is JSON; 0: there is none, or HTTP/0.9's."""
    if not answer.startswith(b"HTTP/"):
        return 0
    head, _, content = answer.partition(b"\r\n\r\n")
    found = re.match(rb"HTTP/1\.[01] (\d{3})", head)
    assert found, answer[:200]
    if content and b"chunked" not in head.lower() and b"application/json" in head.lower():
        json.loads(content.partition(b"\r\nHTTP/1.1 ")[0])
    return int(found[1])


@pytest.mark.parametrize("way", ["direct", "through nginx", "through nginx, inside"])
def test_hostile_requests_make_no_5xx_and_end_no_worker(
    connect, unit, site, way, alice, issue, database
):
    session = f"X-User-Id: {alice.user_id}\r\nX-Auth-Token: {alice.auth_token}"
    key = f"Authorization: {issue('lookup', 'feedback', 'sessions')['Authorization']}"
    before = sorted(unit.workers())
    sent = list(requests(SEED, COUNT, session, key))

    def one(request: Hostile) -> tuple[Hostile, int]:
        return request, status(send(connect[way](), request, half_close=way == "direct"))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(one, sent))
    counts = Counter(found for _, found in answers)
    assert [(r.data[:300], s) for r, s in answers if s >= 500] == [], site.logs()
    silent = [request.data[:300] for request, found in answers if not found]
    assert not silent or way in SILENT, silent
    assert counts[200] > COUNT / 20, counts  # some are answered as usual
    assert counts[400] > COUNT / 20, counts
    assert sorted(unit.workers()) == before
    caller = database.sign_in("carol")
    fields = Caller(caller.user_id, caller.auth_token).headers
    assert unit.ask("POST", "/api/v1/push.token", fields, body())[0] == 200
