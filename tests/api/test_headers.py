"""The headers that every answer has, whichever way it takes."""

import pytest

from tests.support.factories import body
from tests.support.live import ask

URL = "/api/v1/push.token"
CALLS = [
    (URL, "POST", body(), 200),  # on the fast path
    (URL, "POST", body(type="x"), 400),
    (URL, "GET", None, 200),
    (URL, "PUT", None, 405),
    ("/nowhere", "GET", None, 404),
    ("/healthz", "GET", None, 200),
    ("/readyz", "GET", None, 200),
    ("/metrics", "GET", None, 200),
    ("/openapi.json", "GET", None, 200),
    ("/docs", "GET", None, 200),
    ("/api/v1/push.tokens.lookup", "POST", {}, 401),
    (URL, "POST", b" " * 70_000, 413),
]


def assert_safe(headers) -> None:
    assert headers.get_all("Cache-Control") == ["no-store"]
    assert headers.get_all("X-Content-Type-Options") == ["nosniff"]


@pytest.mark.parametrize(("path", "method", "fields", "status"), CALLS)
def test_no_answer_is_stored_or_guessed_at(live, client, alice, path, method, fields, status):
    answered, headers, _ = ask(live, path, fields, method, **alice.headers)
    assert answered == status
    assert_safe(headers)
    data = {"data": fields} if isinstance(fields, bytes) else {"json": fields}
    given = {"Content-Type": "application/json", **alice.headers}
    answer = client.open(path, method=method, headers=given, **data)
    assert answer.status_code == status
    assert answer.headers.getlist("Cache-Control") == ["no-store"]
    answer.close()
    assert answer.headers.getlist("X-Content-Type-Options") == ["nosniff"]


@pytest.mark.parametrize(
    "nonsense",
    [b"nonsense\r\n\r\n", b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n"],
)
def test_nor_is_what_cannot_be_read(live, nonsense):
    head, _, _ = live.exchange(nonsense).partition(b"\r\n\r\n")
    assert head.count(b"cache-control: no-store") == 1
    assert head.count(b"x-content-type-options: nosniff") == 1
