"""The fast path and the view are one: thousands of requests, the same answers and rows.

Each generated request goes to the running service and to the Flask app under a plain WSGI server
(Flask's test client), each on an empty table; status, headers, body and rows must be the same.
"""

import json
import socket
import time
from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.factories import FCM_TOKEN, Caller, Database, body
from tests.support.live import Live, serve

URL = "/api/v1/push.token"
TEXTS = st.one_of(
    st.text(max_size=20),
    st.text(st.characters(codec=None), max_size=10),  # lone surrogates too
    st.sampled_from(["apn", "gcm", "", "\0", "x" * 2049, "ABCDEF", "production", "sandbox"]),
)
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), TEXTS, st.lists(TEXTS, max_size=2)
)
FIELDS = st.fixed_dictionaries(
    {
        "type": st.one_of(st.sampled_from(["apn", "gcm"]), VALUES),
        "value": st.one_of(st.just(FCM_TOKEN), TEXTS, VALUES),
        "appName": st.one_of(st.just("chat.example"), TEXTS, VALUES),
    },
    optional={
        "id": st.one_of(TEXTS, VALUES),
        "environment": st.one_of(st.sampled_from(["production", "sandbox"]), VALUES),
        "voipToken": st.one_of(st.just("abcdef"), TEXTS, VALUES),
        "unknown": VALUES,
    },
)
# Mostly right, so that what differs is the rest of the request.
BODIES = st.one_of(
    *[st.just(json.dumps(body()).encode())] * 4,
    *[st.just(json.dumps(body(id="phone")).encode())] * 2,
    *[st.just(json.dumps(body(type="apn", id="phone", voipToken="calls")).encode())] * 2,
    st.just(json.dumps(body(type="apn", voipToken="calls")).encode()),
    FIELDS.map(lambda fields: json.dumps(fields).encode()),
    FIELDS.map(lambda fields: json.dumps(fields, ensure_ascii=False).encode("utf-8", "replace")),
    FIELDS.map(lambda fields: json.dumps(fields).encode("utf-16")),
    st.binary(max_size=60),
    st.sampled_from(
        [
            b"",
            b"[]",
            b"null",
            b'{"type":"gcm","type":"apn","value":"v","appName":"a"}',
            b'\xef\xbb\xbf{"type":"gcm","value":"v","appName":"a"}',
            b'{"type":"gcm","value":"v","appName":"a"} x',
            b'{"type":"gcm","value":"v","appName":NaN}',
            b"type=gcm&value=t&appName=app&id=x",
            b'{"a":' * 300,
            json.dumps(body(value="x" * 3000)).encode(),
        ]
    ),
)
CONTENT_TYPES = st.sampled_from(
    [
        "application/json",
        "application/json; charset=utf-8",
        "application/json;charset=utf-16",
        "application/json ; x=y",
        " application/json",
        "Application/JSON",
        "application/jsonx",
        "application/x-www-form-urlencoded",
        "application/x-www-form-urlencoded; charset=utf-8",
        "multipart/form-data; boundary=x",
        "text/plain",
        "",
        None,
    ]
)
ORIGIN = "https://app.example.org"
HOSTS = st.sampled_from(["x", "a..b", "a" * 64, "", "[::1]", "x:99999", "ü", "a b", None])
TOKEN_CHARACTERS = st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f")
MORE = st.lists(
    st.sampled_from(
        [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("X-Request-Id", "mine-1"),
            ("X-Request-Id", "not mine"),
            ("X_User_Id", "bob"),
            ("X_Auth_Token", "x"),
            ("Content_Length", "3"),
            ("X-HTTP-Method-Override", "DELETE"),
            ("Content-Encoding", "gzip"),
            ("Accept", "text/html"),
            ("Cookie", "a=b"),
            ("Authorization", "Bearer x"),
            ("Origin", ORIGIN),
            ("Origin", "https://other.example.org"),
            ("X-Forwarded-For", "1.2.3.4"),
            ("Transfer-Encoding", "chunked"),
        ]
    ),
    max_size=3,
    unique_by=lambda field: field[0],
)
CREDENTIALS = st.one_of(
    st.just("right"),
    st.just("right"),
    st.just("right"),
    st.sampled_from(["none", "no user", "no token", "empty", "wrong token", "wrong user"]),
    st.tuples(st.text(TOKEN_CHARACTERS, max_size=10), st.text(TOKEN_CHARACTERS, max_size=10)),
)


def credentials(which: object, alice: Caller) -> list[tuple[str, str]]:
    """Return the two headers."""
    user, token = alice.user_id, alice.auth_token
    if isinstance(which, tuple):
        user, token = which
    named = {
        "none": [],
        "no user": [("X-Auth-Token", token)],
        "no token": [("X-User-Id", user)],
        "empty": [("X-User-Id", ""), ("X-Auth-Token", "")],
        "wrong token": [("X-User-Id", user), ("X-Auth-Token", "x" * 43)],
        "wrong user": [("X-User-Id", "bob"), ("X-Auth-Token", token)],
    }
    right = [("X-User-Id", user), ("X-Auth-Token", token)]
    return named.get(which, right) if isinstance(which, str) else right


class Wire:
    """A connection to the service that is opened again when it was closed."""

    def __init__(self, live: Live):
        self._live = live
        self._file = None
        self._used = 0.0

    def ask(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        if time.monotonic() - self._used > 2:  # the service closes it after 5 idle seconds
            self.close()
        if self._file is None:
            connection = socket.create_connection(("127.0.0.1", self._live.port), timeout=60)
            self._file = connection.makefile("rwb")
            connection.close()  # when the file is
        self._file.write(data)
        self._file.flush()
        status = int(self._file.readline().split()[1])
        headers = {}
        while (line := self._file.readline()) != b"\r\n":
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        content = self._file.read(int(headers["content-length"]))
        self._used = time.monotonic()
        if headers.pop("connection", "") == "close":
            self.close()
        return status, headers, content

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


@pytest.fixture(scope="module")
def wire(database_url) -> Iterator[Wire]:
    """A connection to a service that pages of one other origin may call."""
    with serve(database_url, CORS_ORIGINS=ORIGIN) as live:
        wire = Wire(live)
        yield wire
        wire.close()


@pytest.fixture
def client(new_app, database_url) -> FlaskClient:
    """The same service under a plain WSGI server."""
    return new_app(database_url=database_url, cors_origins=(ORIGIN,)).test_client()


def chunked(data: bytes) -> bytes:
    """Return a body in chunks of 7 bytes."""
    parts = [data[start : start + 7] for start in range(0, len(data), 7)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def stored(database: Database) -> list[dict[str, object]]:
    """Return the rows without what differs by chance, and remove them."""
    rows = database.rows("DELETE FROM push_tokens RETURNING *")
    rows.sort(key=lambda row: (row["app_name"], row["token"]))
    for row in rows:
        del row["id"], row["created_at"], row["updated_at"]
        if len(row["device_id"]) == 17:
            del row["device_id"]
    return rows


def comparable(status: int, headers: dict[str, str], content: bytes) -> object:
    """Return an answer without what differs by chance."""
    said = json.loads(content)
    if status == 200:
        keys = list(said["result"])
        for name in ("createdAt", "updatedAt"):
            assert len(said["result"].pop(name)) == 24
        if len(said["result"]["_id"]) == 17:
            del said["result"]["_id"]
        said["keys"] = keys
    headers = {name: value for name, value in headers.items() if name not in ("date", "server")}
    given = headers.pop("x-request-id")
    return status, headers, said, given == "mine-1"


RIGHT = {"which": "right", "content_type": "application/json", "host": "x", "more": []}


@settings(
    max_examples=1000,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=BODIES, content_type=CONTENT_TYPES, host=HOSTS, more=MORE, which=CREDENTIALS)
@example(data=json.dumps(body()).encode(), **RIGHT)
@example(data=json.dumps(body(id="phone")).encode(), **RIGHT)
@example(data=json.dumps(body(id=7)).encode(), **RIGHT)
@example(data=json.dumps(body()).encode(), **RIGHT | {"host": "a..b"})
@example(data=json.dumps(body()).encode(), **RIGHT | {"host": "a" * 64, "which": "wrong token"})
@example(
    data=json.dumps(body()).encode(),
    **RIGHT | {"more": [("Upgrade", "websocket"), ("Connection", "Upgrade")]},
)
@example(data=json.dumps(body()).encode(), **RIGHT | {"more": [("Origin", ORIGIN)]})
@example(
    data=json.dumps(body()).encode(),
    **RIGHT | {"which": "wrong token", "more": [("Origin", ORIGIN)]},
)
@example(data=json.dumps(body()).encode(), **RIGHT | {"more": [("Origin", "null")]})
def test_both_ways_answer_and_store_the_same(
    client, wire, database, alice, data, content_type, host, more, which
):
    fields = credentials(which, alice) + more
    if content_type is not None:
        fields.append(("Content-Type", content_type))
    is_chunked = ("Transfer-Encoding", "chunked") in more
    sent = chunked(data) if is_chunked else data
    lines = [f"POST {URL} HTTP/1.1", f"Host: {host or ''}"]
    lines += [f"{name}: {value}" for name, value in fields]
    if not is_chunked:
        lines.append(f"Content-Length: {len(data)}")
    head = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")

    fast = comparable(*wire.ask(head + sent))
    rows = stored(database)

    # A plain WSGI server drops a name with `_`, which would be taken for the one with `-`.
    environ = {f"HTTP_{n.upper().replace('-', '_')}": v for n, v in fields if "_" not in n}
    for name in ("CONTENT_TYPE", "TRANSFER_ENCODING"):
        environ.pop(f"HTTP_{name}", None)
    environ = {name: value.strip(" ") for name, value in environ.items()}
    answer = client.post(
        URL,
        data=data,
        content_type=None if content_type is None else content_type.strip(" "),
        environ_overrides={**environ, "HTTP_HOST": host or ""},
    )
    headers = {name.lower(): value for name, value in answer.headers}
    has_origin = ("Origin", ORIGIN) in more
    assert headers["vary"] == "Origin"
    assert headers.get("access-control-allow-origin") == (ORIGIN if has_origin else None)
    assert comparable(answer.status_code, headers, answer.data) == fast
    assert stored(database) == rows
