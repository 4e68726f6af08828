"""HTTP as this service reads it itself: limits, deadlines, framing, and clients of every kind."""

import json
import socket
import struct
import time
from contextlib import ExitStack, closing

import pytest

from tests.support.factories import Caller, body
from tests.support.live import Live, ask, serve
from tests.support.patience import keeps, seconds

URL = "/api/v1/push.token"
MAX_LINE, MAX_HEAD = 8190, 16 * 1024
REQUEST_SECONDS = 20.0


def head(caller: Caller, length: int | None, *more: str, version: str = "1.1") -> bytes:
    """Return the head of a registration."""
    lines = [f"POST {URL} HTTP/{version}", "Host: x", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in caller.headers.items()]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join([*lines, *more, "", ""]).encode()


def request(caller: Caller, *more: str, **fields: object) -> bytes:
    """Return a registration as bytes."""
    data = json.dumps(body(**fields)).encode()
    return head(caller, len(data), *more) + data


class Connection:
    """A connection to the service, and its answers one by one."""

    def __init__(self, live: Live, timeout: float = 60):
        self.socket = socket.create_connection(("127.0.0.1", live.port), timeout=timeout)
        self._file = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> tuple[int, dict[str, str], dict[str, object]]:
        """Read one answer: status, headers, JSON."""
        status = int(self._file.readline().split()[1])
        headers = {}
        while (line := self._file.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode().partition(":")
            headers[name.strip().lower()] = value.strip()
        content = self._file.read(int(headers["content-length"]))
        assert headers["content-type"] == "application/json"
        return status, headers, json.loads(content)

    def is_closed(self) -> bool:
        """Wait for the end of what the service sends; tell whether it came."""
        return self._file.read(1) == b""

    def close(self) -> None:
        self._file.close()
        self.socket.close()


@pytest.fixture
def connect(live):
    """A function that connects to the service."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(closing(Connection(live)))


def test_who_leaves_before_the_answers_is_no_mistake_of_ours(database_url, alice, tmp_path):
    """Of requests that come at once, too: uvicorn tells only the last of them that he has left."""
    log = tmp_path / "log"
    own = f"GET {URL} HTTP/1.1\r\nHost: x\r\n"
    own += "".join(f"{name}: {value}\r\n" for name, value in alice.headers.items())
    with serve(database_url, log=log, LOG_LEVEL="info") as live:
        for sent in (f"{own}\r\n".encode(), request(alice)):
            for _ in range(20):
                with socket.create_connection(("127.0.0.1", live.port)) as client:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    client.sendall(sent * 5)
        assert ask(live, "/readyz", method="GET")[0] == 200
    assert '"level":"ERROR"' not in log.read_text()


class TestLimits:
    @pytest.mark.parametrize(
        ("line", "status"),
        [(MAX_LINE, 404), (MAX_LINE + 1, 414), (3 * MAX_HEAD, 414), (300_000, 414)],
    )
    def test_a_request_line_has_at_most_8190_bytes(self, connect, line, status):
        connection = connect()
        connection.send(b"GET /" + b"a" * (line - 1) + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        found, _, said = connection.answer()
        assert (found, said["success"]) == (status, False)

    @pytest.mark.parametrize("value", [MAX_HEAD, 300_000])
    @pytest.mark.parametrize("end", [b"\r\n\r\n", b""], ids=["complete", "not complete"])
    def test_a_head_over_16_kib_is_431(self, connect, value, end):
        connection = connect()
        connection.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"a" * value + end)
        status, headers, said = connection.answer()
        assert (status, headers["connection"]) == (431, "close")
        assert said == {"success": False, "error": "Request Header Fields Too Large"}
        assert connection.is_closed()

    def test_a_head_just_under_it_is_read(self, connect):
        connection = connect()
        connection.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 16_000 + b"\r\n\r\n")
        assert connection.answer()[0] == 200

    @pytest.mark.parametrize(("fields", "status"), [(90, 200), (200, 431)])
    def test_a_head_has_at_most_100_fields(self, connect, fields, status):
        connection = connect()
        more = b"".join(b"X-%d: y\r\n" % number for number in range(fields))
        connection.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + more + b"\r\n")
        assert connection.answer()[0] == status

    @pytest.mark.slow
    def test_a_request_not_complete_in_time_is_408(self, live, alice):
        begun = {
            "head": b"POST /api/v1/push.token HTTP/1.1\r\nHost: x\r\nX-",
            "body": head(alice, 500) + b'{"type":',
            "chunk": head(alice, None, "Transfer-Encoding: chunked") + b"5\r\nab",
            "view": b"POST /api/v1/logout HTTP/1.1\r\nContent-Length: 9\r\n\r\nx",
        }
        # Behind a complete one in the same packet, too.
        behind = ("body", "chunk", "view")
        begun |= {f"{name} behind another": request(alice) + begun[name] for name in behind}
        start = time.monotonic()
        connections = {name: Connection(live) for name in begun}
        for name, data in begun.items():
            connections[name].send(data)
        sent = time.monotonic()
        for name, connection in connections.items():
            if name.endswith("another"):
                assert connection.answer()[0] == 200
            status, headers, said = connection.answer()
            assert time.monotonic() - start > REQUEST_SECONDS - 1, name
            assert time.monotonic() - sent < REQUEST_SECONDS + 10, name
            assert (status, headers["connection"]) == (408, "close"), name
            assert said == {"success": False, "error": "Request Timeout"}, name
            assert connection.is_closed(), name
            connection.close()

    @pytest.mark.parametrize("size", [500_000, 16 * 1024 * 1024])
    def test_a_body_over_the_limit_is_refused_and_its_sender_told(self, connect, alice, size):
        """Even one who reads no answer before all is sent, such as nginx."""
        for framing in ("Content-Length: 17000000", "Transfer-Encoding: chunked"):
            connection = connect()
            connection.send(head(alice, None, framing))
            if "chunked" in framing:
                connection.send(b"20000\r\n" + b"x" * 0x20000 + b"\r\n")
            connection.send(b"x" * size)
            status, headers, said = connection.answer()
            assert (status, headers["connection"]) == (413, "close")
            assert said == {"success": False, "error": "Request entity too large"}
            assert connection.is_closed()


class TestFraming:
    @pytest.mark.parametrize(
        "data",
        [
            b"\x00\xff\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"GET / HTTP/9.9\r\n\r\n",
            b"get\r\n\r\n",
            b"GET / HTTP/1.1\r\nBad Header\r\n\r\n",
            b"GET / HTTP/1.1\r\n X: folded\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\nabcde",
            b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
            b"POST / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\nabcde",
            b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nX: a\x00b\r\n\r\n",
            b"GET / HTTP/1.1\r\nX: a\rb\r\n\r\n",
            b"GET / HTTP/1.1\nHost: x\n\nGET / HTTP/1.1\n\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ],
    )
    def test_what_cannot_be_read_is_400_in_json_and_the_end(self, connect, data):
        connection = connect()
        connection.send(data + request(Caller("smuggled", "x" * 43)))
        status, headers, said = connection.answer()
        assert (status, headers["connection"]) == (400, "close")
        assert said == {"success": False, "error": "Bad Request"}
        assert connection.is_closed()

    @pytest.mark.parametrize(
        "rest",
        [
            b"zz\r\n\r\n",
            b"5\r\nabcdefg\r\n0\r\n\r\n",
            b"-1\r\n\r\n",
            b"5;\x00\r\nabcde\r\n0\r\n\r\n",
        ],
    )
    @pytest.mark.parametrize(("known", "status"), [(True, 400), (False, 401)])
    def test_a_broken_chunk_is_400_but_a_401_goes_first(self, connect, alice, rest, known, status):
        caller = alice if known else Caller("alice", "wrong")
        connection = connect()
        connection.send(head(caller, None, "Transfer-Encoding: chunked") + rest)
        assert connection.answer()[0] == status
        assert connection.is_closed()

    @pytest.mark.parametrize(("known", "status"), [(True, 400), (False, 401)])
    def test_a_short_body_is_400_but_a_401_goes_first(self, live, database, alice, known, status):
        caller = alice if known else Caller("alice", "wrong")
        answer = live.exchange(head(caller, 500) + json.dumps(body()).encode())
        assert int(answer.split()[1]) == status
        assert database.push_tokens() == []

    def test_chunks_are_put_together(self, connect, alice, database):
        data = json.dumps(body(value="chunked")).encode()
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in data) + b"0\r\nTrailer: x\r\n\r\n"
        connection = connect()
        connection.send(head(alice, None, "Transfer-Encoding: chunked") + chunks)
        assert connection.answer()[0] == 200
        assert [row["token"] for row in database.push_tokens()] == ["chunked"]

    @pytest.mark.parametrize(
        "field", ["X-User-Id: bob", "X-Auth-Token: wrong", "Content-Type: text/plain"]
    )
    def test_fields_after_a_body_are_not_headers(self, connect, alice, field):
        data = json.dumps(body()).encode()
        chunks = b"%x\r\n%s\r\n0\r\n%s\r\n\r\n" % (len(data), data, field.encode())
        connection = connect()
        connection.send(head(alice, None, "Transfer-Encoding: chunked") + chunks)
        assert connection.answer()[0] == 200

    @pytest.mark.parametrize("known", [True, False])
    @pytest.mark.parametrize("endless", [b"0\r\nX: y\r\n", b"0\r\nX: ", b"1;"])
    def test_what_comes_beside_a_body_has_an_end(self, connect, alice, known, endless):
        """Fields after it fill no memory, and the extension of a chunk has no more than a head."""
        caller = alice if known else Caller("alice", "wrong")
        connection = connect()
        connection.send(head(caller, None, "Transfer-Encoding: chunked") + b"1\r\n{\r\n" + endless)
        connection.send((b"X: y\r\n" if endless.endswith(b"\n") else b"y") * 500_000)
        assert connection.answer()[0] == (400 if known else 401)
        assert connection.is_closed()

    def test_a_body_is_not_a_request(self, connect, alice, database):
        """Nothing of a body is read as the next request, however it is cut."""
        inner = request(alice, value="smuggled")
        for size in (len(inner), len(inner) + 100):
            connection = connect()
            connection.send(head(alice, size) + inner)
            if size == len(inner):
                assert connection.answer()[0] == 400
            connection.close()
        assert database.push_tokens() == []

    def test_an_upgrade_is_a_request_like_others(self, connect, alice):
        connection = connect()
        connection.send(request(alice, "Connection: Upgrade", "Upgrade: websocket"))
        assert connection.answer()[0] == 200

    @pytest.mark.parametrize("target", ["/api/v1/push.token", "example.org:443", "*"])
    def test_connect_is_refused(self, connect, target):
        connection = connect()
        connection.send(f"CONNECT {target} HTTP/1.1\r\nHost: t\r\n\r\nrest".encode())
        status, _, answer = connection.answer()
        assert (status, answer["error"]) == (405, "Method not allowed")

    def test_expect_100_continue_is_answered(self, connect, alice):
        data = json.dumps(body()).encode()
        connection = connect()
        connection.send(head(alice, len(data), "Expect: 100-continue"))
        assert connection._file.readline().startswith(b"HTTP/1.1 100")
        assert connection._file.readline() == b"\r\n"
        connection.send(data)
        assert connection.answer()[0] == 200


class TestClients:
    def test_one_connection_serves_many_requests(self, connect, alice):
        connection = connect()
        for number in range(20):
            connection.send(request(alice, value=f"v{number}"))
            status, headers, _ = connection.answer()
            assert status == 200
            assert "connection" not in headers

    def test_pipelined_requests_are_answered_in_order(self, connect, alice, database):
        connection = connect()
        requests = [request(alice, value=f"v{n}") for n in range(5)]
        requests.insert(2, b"GET /api/v1/push.token HTTP/1.1\r\nHost: x\r\n\r\n")
        requests.insert(4, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.send(b"".join(requests))
        answers = [connection.answer() for _ in requests]
        assert [status for status, _, _ in answers] == [200, 200, 401, 200, 200, 200, 200]
        values = [said["result"]["token"]["gcm"] for _, _, said in answers if "result" in said]
        assert values == [f"v{n}" for n in range(5)]

    def test_what_cannot_be_read_is_answered_after_what_came_before(self, connect, alice):
        connection = connect()
        connection.send(request(alice) + b"nonsense\r\n\r\n")
        assert connection.answer()[0] == 200
        assert connection.answer()[0] == 400
        assert connection.is_closed()

    @pytest.mark.parametrize("path", [URL, "/api/v1/logout"])
    def test_a_half_closed_client_gets_its_answer(self, live, alice, path):
        data = request(alice).replace(URL.encode(), path.encode(), 1)
        assert live.exchange(data).startswith(b"HTTP/1.1 200")

    def test_a_client_that_wants_the_connection_closed_sees_it_closed(self, connect, alice):
        connection = connect()
        connection.send(request(alice, "Connection: close"))
        status, headers, _ = connection.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert connection.is_closed()

    def test_http_1_0_is_answered_and_closed(self, connect, alice):
        data = json.dumps(body()).encode()
        connection = connect()
        connection.send(head(alice, len(data), version="1.0") + data)
        assert connection.answer()[0] == 200
        assert connection.is_closed()

    def test_a_client_that_has_gone_harms_nobody(self, live, connect, alice, database):
        for number in range(50):
            connection = Connection(live)
            connection.send(request(alice, value=f"gone{number}"))
            connection.close()
        connection = connect()
        connection.send(request(alice))
        assert connection.answer()[0] == 200

    def test_requests_in_the_smallest_pieces_are_read(self, connect, alice):
        connection = connect()
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request(alice):
            connection.send(bytes([byte]))
        assert connection.answer()[0] == 200

    def test_1000_half_open_clients_hold_no_worker(self, database_url, alice):
        with serve(database_url, workers=1) as live, ExitStack() as stack:
            for number in range(1000):
                connection = stack.enter_context(closing(Connection(live)))
                connection.send(head(alice, 5000)[: 40 + number % 100] if number % 2 else b"P")

            def register() -> None:
                with closing(Connection(live)) as connection:
                    connection.send(request(alice))
                    assert connection.answer()[0] == 200

            keeps(2, lambda: seconds(register))
