"""What nginx and the service read as the ends of requests is the same: nothing is smuggled.

Each case carries a registration where one of the two might take it for a request of its own.
"""

import json
import socket
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.activation import SocketUnit
from tests.support.factories import Caller, body
from tests.support.parts import part
from tests.support.proxy import NO_LIMITS, Proxy, nginx

URL = "/api/v1/push.token"


def registration(caller: Caller, value: str, *more: str) -> bytes:
    data = json.dumps(body(value=value)).encode()
    lines = [f"POST {URL} HTTP/1.1", "Host: x", "Content-Type: application/json", *more]
    lines += [f"{name}: {text}" for name, text in caller.headers.items()]
    return "\r\n".join([*lines, f"Content-Length: {len(data)}", "", ""]).encode() + data


# Heads that two readers may take to end, or their bodies to end, at different places. `%d` is the
# length of what is smuggled.
HEADS = [
    b"Content-Length: 0\r\nContent-Length: %d",
    b"Content-Length: %d\r\nContent-Length: 0",
    b"Content-Length: 0, %d",
    b"Content-Length: 0\x0b",
    b"Content-Length: +0",
    b"Content-Length: -0",
    b"Content-Length: 0x0",
    b"Content-Length: 0_0",
    b"Content-Length : 0",
    b"Content-Length:\r\n 0",
    b"Content-Length\x00: 0",
    b"Content_Length: 0",
    b"Content-Length: 0\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nContent-Length: %d",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\nContent-Length: %d",
    b"Transfer-Encoding: identity\r\nContent-Length: 0",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding:\x0bchunked",
    b"Transfer-Encoding: chunked\x0b",
    b"Transfer-Encoding : chunked",
    b" Transfer-Encoding: chunked",
    b"X: y\rTransfer-Encoding: chunked",
    b"X: y\nTransfer-Encoding: chunked",
    b"Transfer-Encoding\r\n: chunked",
    b"Transfer-Encoding: cow\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: gzip, chunked",
    b'Transfer-Encoding: "chunked"',
    b"transfer-encoding: CHUNKED\r\nContent-Length: 3",
    b"Expect: 100-continue\r\nContent-Length: 0",
    b"Connection: Content-Length\r\nContent-Length: 0",
    b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAA",
    b"X: " + b"y" * 9000 + b"\r\nContent-Length: 0",
]
# Bodies behind a right head with chunks.
CHUNKS = [
    b"0\r\n\r\n",
    b"0\n\n",
    b"00000000\r\n\r\n",
    b"0;x=y\r\n\r\n",
    b"0\r\nX: y\r\n\r\n",
    b"0\r\nContent-Length: 5\r\n\r\n",
    b"0 \r\n\r\n",
    b"+0\r\n\r\n",
    b"0x0\r\n\r\n",
    b"1\r\nxx0\r\n\r\n",
    b"1\r\nx\n0\r\n\r\n",
    b"1;\nxx\r\nx\r\n0\r\n\r\n",
    b"fffffffffffffffff0\r\n",
    b"\r\n0\r\n\r\n",
    b"2\r\n\r\n\r\n0\r\n\r\n",
]
CASES = [
    *(b"POST /api/v1/logout HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n" for head in HEADS),
    *(
        b"POST /api/v1/logout HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
        for chunks in CHUNKS
    ),
    b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n",
    b"HEAD /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n",
    b"GET /healthz HTTP/0.9\r\n\r\n",
    b"GET /healthz\r\n\r\n",
    b"GET /healthz HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET http://a/healthz HTTP/1.1\r\nHost: b\r\n\r\n",
    b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
]


@pytest.fixture(scope="module")
def proxied(database_url: str) -> Iterator[Proxy]:
    part("nginx")
    with tempfile.TemporaryDirectory(prefix="smuggle-") as name:
        unit = SocketUnit(Path(name) / "registry.sock")
        unit.start(database_url, WEB_CONCURRENCY="1")
        with nginx(Path(name) / "n", unit.path, changes=NO_LIMITS) as proxy:
            yield proxy
        unit.close()


def answers(data: bytes) -> int:
    """Count the answers in what came back, but for those that only say: go on."""
    return data.count(b"HTTP/1.1 ") - data.count(b"HTTP/1.1 100 ")


def exchange(port: int, data: bytes, seconds: float = 60, at_most: int = 9) -> bytes:
    """Send bytes, and return what comes back: all of it, so many answers, or until it is late."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(data)
        client.settimeout(seconds)
        answer = b""
        with suppress(ConnectionResetError, TimeoutError):
            while answers(answer) < at_most and (received := client.recv(65536)):
                answer += received
    return answer


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
@pytest.mark.parametrize("way", ["direct", "nginx"])
def test_no_answer_goes_to_another_request(request, live, database, alice, bob, way, case):
    """Who sends one request and a second one on the same connection gets them or less.

    What is behind a malformed head may be read as a request of its own by nobody else than its
    sender: through nginx, whose connections to the service are shared, the next client's request
    is answered as if nothing had been.
    """
    smuggled = registration(alice, "smuggled")
    data = (case % len(smuggled) if b"%d" in case else case) + smuggled
    port = live.port if way == "direct" else request.getfixturevalue("proxied").public
    exchange(port, data, 0.3)
    for number in range(3):
        answer = exchange(port, registration(bob, f"of bob {number}", "Connection: close"))
        head, _, said = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), answer
        assert json.loads(said)["result"]["userId"] == "bob"
    owners = {row["token"]: row["user_id"] for row in database.push_tokens()}
    assert owners.pop("smuggled", "alice") == "alice"
    assert owners == {f"of bob {number}": "bob" for number in range(3)}


@pytest.mark.parametrize("case", CASES[: len(HEADS)], ids=range(len(HEADS)))
def test_a_head_that_can_be_read_two_ways_ends_the_connection(live, database, alice, case):
    """Directly, nothing behind such a head is read: it is answered once, and closed."""
    smuggled = registration(alice, "smuggled")
    data = (case % len(smuggled) if b"%d" in case else case) + smuggled
    answer = exchange(live.port, data, at_most=2)
    count = answers(answer)
    stored = [row["token"] for row in database.push_tokens()]
    plain = case.count(b"Content-Length: 0\r\n\r\n") and b"Transfer" not in case
    if count == 2:
        assert plain or b"Content_Length" in case or b"Upgrade" in case, answer
    else:
        assert (count, stored) == (1, [])
