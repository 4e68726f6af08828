"""Any bytes in any part of a request: never a 5xx, always JSON, nothing stored unless 200."""

import json
import random
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.factories import Caller, Database, body

URL = "/api/v1/push.token"

FIELDS = ("type", "value", "appName", "id", "token", "voipToken", "__proto__")
TEXTS = st.one_of(
    st.text(max_size=80),
    st.text(st.characters(codec=None), max_size=20),  # lone surrogates too
    st.sampled_from(["apn", "gcm", "", "\0", "x" * 2049, "ABCDEF", "\ud800", "ü" * 1024]),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
BODIES = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6)
# Mostly right, so that some get through to the database.
NEARLY_RIGHT = st.fixed_dictionaries(
    {"type": st.sampled_from(["apn", "gcm"]), "value": TEXTS, "appName": TEXTS},
    optional={"id": st.one_of(VALUES, TEXTS), "voipToken": st.one_of(VALUES, TEXTS)},
)
CONTENT_TYPES = st.one_of(
    st.sampled_from(
        [
            "application/json",
            "application/json; charset=utf-16",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "text/plain",
            "",
        ]
    ),
    st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=30),
)
HEADER = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=60)
METHODS = st.sampled_from(["POST", "DELETE", "GET"])

# The fixtures are one database for all examples: each looks at what it added.
anything = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def check(answer, database: Database, before: int) -> None:
    assert answer.status_code < 500
    assert answer.content_type == "application/json"
    assert isinstance(json.loads(answer.text), dict)
    if answer.status_code != 200:
        assert len(database.push_tokens()) == before


class TestInProcess:
    @anything
    @given(method=METHODS, fields=st.one_of(BODIES, NEARLY_RIGHT))
    def test_any_fields(self, client, alice, database, method, fields):
        before = len(database.push_tokens())
        answer = client.open(
            URL,
            method=method,
            data=json.dumps(fields),
            content_type="application/json",
            headers=alice.headers,
        )
        check(answer, database, before)
        if method == "POST" and answer.status_code == 200:
            (shown,) = answer.json["result"]["token"].values()
            assert shown in (fields["value"], fields["value"].lower())

    @anything
    @given(method=METHODS, data=st.binary(max_size=200), content_type=CONTENT_TYPES)
    @example(method="POST", data=b"type=gcm&value=%00&appName=%ff", content_type="")
    def test_any_body(self, client, alice, database, method, data, content_type):
        before = len(database.push_tokens())
        answer = client.open(
            URL, method=method, data=data, content_type=content_type, headers=alice.headers
        )
        check(answer, database, before)

    @anything
    @given(fields=st.dictionaries(st.sampled_from(FIELDS), st.binary(max_size=30)))
    def test_any_form(self, client, alice, database, fields):
        before = len(database.push_tokens())
        data = "&".join(f"{name}={quote(value)}" for name, value in fields.items())
        content_type = "application/x-www-form-urlencoded"
        answer = client.post(URL, data=data, content_type=content_type, headers=alice.headers)
        check(answer, database, before)

    @anything
    @given(method=METHODS, user_id=HEADER, auth_token=HEADER)
    def test_any_credentials(self, client, database, method, user_id, auth_token):
        before = len(database.push_tokens())
        headers = {"X-User-Id": user_id, "X-Auth-Token": auth_token}
        answer = client.open(URL, method=method, json=body(token="x"), headers=headers)
        check(answer, database, before)
        assert answer.status_code == 401

    @anything
    @given(query=st.binary(max_size=60))
    def test_any_query(self, client, alice, database, query):
        before = len(database.push_tokens())
        answer = client.delete(f"{URL}?token={quote(query)}&{quote(query)}", headers=alice.headers)
        check(answer, database, before)
        assert answer.status_code in (400, 404)


class TestOnTheWire:
    """What only a real server sees: the request line, the framing and raw header bytes."""

    def head(self, caller: Caller, *lines: bytes, method: bytes = b"POST") -> bytes:
        known = [b"%s: %s" % (k.encode(), v.encode()) for k, v in caller.headers.items()]
        start = b"%s %s HTTP/1.1" % (method, URL.encode())
        fields = [b"Host: x", b"Content-Type: application/json", b"Connection: close"]
        return b"\r\n".join([start, *fields, *known, *lines, b"", b""])

    def check(self, answer: bytes, *statuses: int) -> None:
        head, _, content = answer.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        assert status in statuses, answer
        assert b"application/json" in head
        assert isinstance(json.loads(content), dict)

    @pytest.mark.parametrize(
        ("request_bytes", "status"),
        [
            (b"GET / HTTP/9.9\r\n\r\n", 400),
            (b"\x00\xff\r\n\r\n", 400),
            (b"GET /%ff HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
            (b"GET / HTTP/1.1\r\nBad Header\r\n\r\n", 400),
            (b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 17000 + b"\r\n\r\n", 431),
            (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", 414),
            (b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
            (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        ],
    )
    def test_what_cannot_be_read_is_json_too(self, live, request_bytes, status):
        self.check(live.exchange(request_bytes), status)

    @pytest.mark.parametrize(
        ("framing", "content", "status"),
        [
            (b"Content-Length: 500", json.dumps(body()).encode(), 400),
            (b"Content-Length: 100", b'{"type":"gcm","value":"v","appName":"a"}', 400),
            (b"Transfer-Encoding: chunked", b"zz\r\n\r\n", 400),
            (b"Transfer-Encoding: chunked", b"5\r\nab", 400),
            (b"Transfer-Encoding: chunked", b"11171\r\n" + b"x" * 70001 + b"\r\n0\r\n\r\n", 413),
            (b"Content-Length: 70000", b"x" * 70000, 413),
        ],
    )
    def test_a_body_that_ends_early_or_never_stores_nothing(
        self, live, alice, database, framing, content, status
    ):
        self.check(live.exchange(self.head(alice, framing) + content), status)
        assert database.push_tokens() == []

    def test_who_is_refused_before_the_body_was_read_sees_why(self, live):
        nobody = Caller("", "")
        for _ in range(20):
            request = self.head(nobody, b"Content-Length: 60000") + b"x" * 60000
            self.check(live.exchange(request), 401)

    def test_a_chunked_body_is_read(self, live, alice, database):
        content = json.dumps(body()).encode()
        chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content)
        self.check(live.exchange(self.head(alice, b"Transfer-Encoding: chunked") + chunked), 200)
        assert len(database.push_tokens()) == 1

    def test_the_longest_value_fits_a_query(self, live, alice):
        line = b"DELETE %s?token=%s HTTP/1.1\r\n" % (URL.encode(), b"%C3%BC" * 1024)
        request = line + self.head(alice).partition(b"\r\n")[2]
        self.check(live.exchange(request), 404)

    @settings(anything, max_examples=60)
    @given(junk=st.binary(max_size=60))
    def test_any_header_bytes(self, live, alice, database, junk):
        line = b"X-Auth-Token: " + junk.replace(b"\r", b"").replace(b"\n", b"")
        before = len(database.push_tokens())
        other = Caller(alice.user_id, "")
        answer = live.exchange(self.head(other, line, b"Content-Length: 2") + b"{}")
        self.check(answer, 400, 401)
        assert len(database.push_tokens()) == before


@pytest.mark.parametrize(
    ("alphabet", "size"),
    [("0123456789abcdef", 1), ("пуштокен", 2), ("推送令牌", 3), ("😀🎈🔔", 4)],
)
def test_the_longest_key_fits_its_index_even_when_it_does_not_compress(
    client, alice, database, alphabet, size
):
    choose = random.Random(size)
    value = "".join(choose.choices(alphabet, k=2048 // size))
    app_name = "".join(choose.choices(alphabet, k=255 // size))
    answer = client.post(URL, json=body(value=value, appName=app_name), headers=alice.headers)
    assert answer.status_code == 200
    (row,) = database.push_tokens()
    assert (row["token"], row["app_name"]) == (value, app_name)
