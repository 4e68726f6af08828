"""Hostile requests over all calls, as bytes; the same ones for the same seed."""

import json
import random
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

CALLS = [
    *(f"{method} /api/v1/push.token" for method in ("POST", "POST", "POST", "GET", "DELETE")),
    *("POST /api/v1/logout", "GET /api/v1/logout", "POST /api/v1/users.removeOtherTokens"),
    *(f"POST /api/v1/push.tokens.{name}" for name in ("lookup", "list", "feedback")),
    *(f"POST /api/v1/sessions.{name}" for name in ("put", "revoke")),
    *(f"GET /{name}" for name in ("healthz", "readyz", "metrics", "openapi.json", "docs", "")),
]
FIELDS = {
    "push.token": ["type", "value", "appName", "id", "environment", "voipToken", "token"],
    "push.tokens.lookup": ["userIds", "appName", "type", "environment", "withEnvironment"],
    "push.tokens.list": ["appName", "type", "updatedSince", "count", "cursor"],
    "push.tokens.feedback": ["results", "each"],
    "sessions.put": ["sessions"],
    "sessions.revoke": ["userId", "hashedToken", "exceptHashedTokens"],
}
INNER = ["appName", "value", "provider", "status", "error", "reason", "response", "timestamp"]
INNER += ["sentAt", "userId", "hashedToken", "expiresAt", "payloadValid"]
RIGHT = {"type": "gcm", "value": "hostile", "appName": "hostile", "provider": "fcm", "status": 404}
SCALARS = [
    *(None, True, False, 0, -1, 1e308, 10**30, -(2**63), 0.1, "", " ", "x", "\0", "a\0b"),
    *(
        "\ud800",
        "\U0001f600" * 50,
        "ü" * 300,
        "x" * 2049,
        "x" * 60000,
        "' OR 1=1 --",
        "%00",
        "${7*7}",
    ),
    *("{{7*7}}", "../../etc/passwd", "2026-01-01", "2026-13-41T99:99:99Z", "9999-12-31T23:59:59Z"),
    *("0001-01-01T00:00:00+14:00", "1e5", "NaN", "gcm", "apn", "voip", "fcm", "A" * 44, "=" * 44),
    *("\u202e\x1b[2J", "__proto__", "404", 404, 410, 2**31, 1_700_000_000_000, 8.64e15),
]
RAW = [
    *(b"", b"{", b"}", b"[]", b"null", b"1", b'"x"', b"{}{}", b'{"a":}', b"\xff\xfe{\x00}\x00"),
    *(b"\xef\xbb\xbf{}", b"[" * 20000, b'{"a":' * 5000, b"[" + b"0," * 30000 + b"0]", b"\0" * 100),
    *(b'{"userIds":[' + b"0," * 20000 + b"0]}", b'{"results":[' + b"{}," * 20000 + b"{}]}"),
    *(b'{"count":NaN}', b'{"count":1e999}', b'{"count":-Infinity}', b'{"value":"\xc3\x28"}'),
    *(b'{"type":"gcm","type":"apn"}', b"type=gcm&value=%00&appName=%ff", b"a=" * 5000),
    *(b"\x1f\x8b\x08\x00\x00", b"--x\r\n\r\n--x--", b'{"value":"' + b"x" * 70000 + b'"}'),
    *(b'{"count":' + b"9" * 5000 + b"}", b'{"a":"\\ud800\\udc00\\ud800"}'),
]
PATHS = [
    *("/", "//", "/%", "/%00", "/..", "/../../etc/passwd", "/api/v1/push.token/", "*", "?", "#"),
    *("/api/v1//push.token", "/api/v1/push%2Etoken", "/%ff%fe", "/api/v1/push.token?token=%00"),
    *("/api/v1/push.token?token=%ed%a0%80", "/api/v1/push.token?token=" + "x" * 3000),
    *(
        "http://other/api/v1/push.token",
        "/" + "a" * 9000,
        "/docs/../app/models.py",
        "/docs/%2e%2e/x",
    ),
    *("/api/v1/push.token?" + "a=1&" * 1500, "/\xff\xfe", "/api/v1/push.token;x=1", "healthz"),
]
METHODS = [
    "HEAD",
    "OPTIONS",
    "PUT",
    "PATCH",
    "TRACE",
    "CONNECT",
    "PROPFIND",
    "get",
    "X" * 300,
    "G\0T",
]
VERSIONS = [
    "HTTP/1.0",
    "HTTP/0.9",
    "HTTP/2.0",
    "HTTP/9.9",
    "HTTP/1.1 ",
    "http/1.1",
    "",
    "HTTP/1.x",
]
LENGTHS = [
    "-1",
    "+5",
    "0x10",
    "1e3",
    "99999999999999999999",
    " ",
    "5, 5",
    "5;5",
    "\xb2",
    "10000000000",
]
HEADERS = [
    *("Transfer-Encoding: chunked", "Transfer-Encoding: gzip", "Transfer-Encoding: identity"),
    *(
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: chunked, chunked",
        "Expect: 100-continue",
    ),
    *("Expect: x", "Upgrade: websocket\r\nConnection: Upgrade", "Upgrade: h2c", "Host: a..b"),
    *(
        "Host: other",
        "Host: " + "a" * 64 + ".b",
        "Host:",
        "X-A: " + "x" * 9000,
        "no colon",
        ": empty",
    ),
    *(" folded: x", "X-A: a\r\n b", "X-Nul: a\0b", "X-A: \x1b[2J", "Content-Encoding: gzip"),
    *(
        "Content-Type: text/xml",
        "Content-Type: application/json; charset=utf-16",
        "Content-Type: \xff",
    ),
    *(
        "Content-Type: multipart/form-data; boundary=" + "x" * 500,
        "Content-Type:",
        "Range: bytes=0-",
    ),
    *(
        "X-Request-Id: " + "x" * 200,
        'X-Request-Id: "\x7f',
        "X-Forwarded-For: ::1, x",
        "Cookie: a=b;;;",
    ),
    *(
        "\r\n".join(f"X-{n}: y" for n in range(150)),
        "X-HTTP-Method-Override: DELETE",
        "TE: trailers",
    ),
    *(
        "Origin: null",
        "Access-Control-Request-Method: POST\r\nOrigin: http://x",
        "Forwarded: for=x",
    ),
]
BAD_CREDENTIALS = [
    *("", "X-User-Id: alice", "X-Auth-Token: x", "X-User-Id: \xff\xfe\r\nX-Auth-Token: x"),
    *("X-User-Id: a\r\nX-User-Id: b\r\nX-Auth-Token: x", "X-User-Id: a\0\r\nX-Auth-Token: x"),
    *("X-User-Id: " + "a" * 300 + "\r\nX-Auth-Token: " + "b" * 5000, "Authorization: Bearer"),
    *("Authorization: Bearer \xff", "Authorization: Basic YTpi", "Authorization: Bearer a b c"),
    *("Authorization: bearer " + "k" * 4000, "authorization: BEARER x\r\nAuthorization: Bearer y"),
]


@dataclass(frozen=True)
class Hostile:
    """A request; `is_cut` tells that its body ends early."""

    data: bytes
    is_cut: bool


def requests(seed: int, count: int, session: str, key: str) -> Iterator[Hostile]:
    """Yield requests, most with good credentials; these are given as lines of a head.

    Those that a session ends with have others.
    """
    random_ = random.Random(seed)
    for number in range(count):
        method, _, path = CALLS[number % len(CALLS)].partition(" ")
        call = path.removeprefix("/api/v1/")
        ends = "logout" in call or "remove" in call
        credentials = key if "tokens." in call or "sessions." in call else session
        if ends or random_.random() < 0.2:
            credentials = random_.choice(BAD_CREDENTIALS)
        content = _body(random_, call)
        head = {"Host": "Host: t", "Content-Type": "Content-Type: application/json"}
        head["Connection"], version = "Connection: close", "HTTP/1.1"
        length = str(len(content))
        kind, is_cut = random_.randrange(9), False
        if kind == 0:
            path = random_.choice(PATHS)
        elif kind == 1:
            method = random_.choice(METHODS)
        elif kind == 2:
            version = random_.choice(VERSIONS)
        elif kind == 3:
            length = random_.choice(LENGTHS)
            is_cut = True
        elif kind == 4:
            line = random_.choice(HEADERS)
            head[line.partition(":")[0] if random_.random() < 0.8 else "more"] = line
            is_cut = "Encoding" in line
        elif kind == 5 and content:
            content, is_cut = content[: random_.randrange(len(content))], True
        lines = [f"{method} {path} {version}".rstrip(" "), *head.values()]
        lines += [credentials] if credentials else []
        lines.append(f"Content-Length: {length}")
        data = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + content
        yield Hostile(data, is_cut)


def _body(random_: random.Random, call: str) -> bytes:
    """Return what no call wants, or an object of its fields with values that may be anything."""
    if random_.random() < 0.3:
        return random_.choice(RAW)
    names = FIELDS.get(call, FIELDS["push.token"])
    fields = {name: _value(random_, name) for name in names if random_.random() < 0.8}
    return json.dumps(fields).encode()


def _value(random_: random.Random, name: str, depth: int = 0) -> object:
    chance = random_.random()
    if name in RIGHT and chance < 0.5:
        return RIGHT[name]
    if depth < 3 and (chance > 0.9 or (name.endswith("s") and name != "status" and chance > 0.2)):
        length = random_.choice([0, 1, 1, 2, 3, 50, 1001])
        if length > 3 or random_.random() < 0.3:
            return [random_.choice(SCALARS)] * min(length, 1001)
        inner = [name for name in INNER if random_.random() < 0.8]
        return [{one: _value(random_, one, depth + 1) for one in inner} for _ in range(length)]
    return random_.choice(SCALARS)


def send(client: socket.socket, request: Hostile, *, half_close: bool) -> bytes:
    """Send a request over a connected socket; return all that comes back.

    Where its body ends early, or `half_close` says so, sending ends; nothing more can come.
    """
    answer = b""
    with client, suppress(ConnectionError, TimeoutError):
        with suppress(ConnectionError):  # it was refused before all was sent
            client.sendall(request.data)
            if request.is_cut or half_close:
                client.shutdown(socket.SHUT_WR)
        while received := client.recv(65536):
            answer += received
            if _is_whole(answer):  # a connection may be kept, whatever was asked for
                client.settimeout(1)
    return answer


def _is_whole(answer: bytes) -> bool:
    """Tell whether all is there that the head of an answer announces."""
    head, end, content = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    return bool(end) and len(content) >= int(length[1] if length else 0)
