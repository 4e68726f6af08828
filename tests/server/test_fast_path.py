"""The short way of a registration says what the view says, and leaves it what is not plain."""

import json

import pytest

from app.server import fast_path
from tests.support.factories import body

URL = "/api/v1/push.token"
LARGE = "x" * 70_000


@pytest.fixture(params=["short way", "view"])
def way(request, monkeypatch):
    if request.param == "view":
        monkeypatch.setattr(fast_path, "register", lambda registrar, environ: None)
    return request.param


BODIES = pytest.mark.parametrize(
    ("data", "content_type", "status"),
    [
        (json.dumps(body()), "application/json", 200),
        (json.dumps(body()), "application/json; charset=utf-8", 200),
        (json.dumps(body(id=None)), "application/json", 200),
        (json.dumps(body(id="device")), "application/json", 200),
        (json.dumps(body(id=7)), "application/json", 400),
        (json.dumps(body(type="wns")), "application/json", 400),
        (json.dumps(body(value="")), "application/json", 400),
        (json.dumps(body(appName="\ud800")), "application/json", 400),
        ("[]", "application/json", 400),
        ("{", "application/json", 400),
        ("", "application/json", 400),
        ("type=gcm&value=t&appName=app", "application/x-www-form-urlencoded", 200),
        (json.dumps(body()), "text/plain", 400),
        (json.dumps(body(value=LARGE)), "application/json", 413),
        (json.dumps(body(value="x" * 3000)), "application/json", 400),
    ],
)
CALLERS = pytest.mark.parametrize("caller", ["alice", "nobody"])


@BODIES
@CALLERS
def test_an_error_has_the_same_text_and_headers_both_ways(
    client, alice, monkeypatch, caller, data, content_type, status
):
    headers = alice.headers if caller == "alice" else alice.headers | {"X-User-Id": "bob"}
    said = []
    for _ in range(2):
        answer = client.post(URL, data=data, content_type=content_type, headers=headers)
        answered = answer.status_code, {name for name, _ in answer.headers}
        said.append((*answered, answer.text if answer.status_code != 200 else None))
        monkeypatch.setattr(fast_path, "register", lambda registrar, environ: None)
    assert said[0] == said[1]


@BODIES
@CALLERS
def test_both_ways_answer_alike(client, database, way, alice, caller, data, content_type, status):
    headers = alice.headers if caller == "alice" else alice.headers | {"X-User-Id": "bob"}
    answer = client.post(URL, data=data, content_type=content_type, headers=headers)
    expected = status if caller == "alice" or status == 413 else 401
    assert (answer.status_code, answer.content_type) == (expected, "application/json")
    if expected == 200:
        (stored,) = database.push_tokens()
        result = answer.json["result"]
        assert list(result) == [
            *("token", "appName", "userId", "enabled", "createdAt", "updatedAt", "_id")
        ]
        assert (result["_id"], result["userId"]) == (stored["id"], "alice")
    else:
        assert database.push_tokens() == []


def test_the_short_way_serves_plain_registrations(client, alice, monkeypatch):
    monkeypatch.delattr(fast_path.Flask, "wsgi_app")
    assert client.post(URL, json=body(), headers=alice.headers).status_code == 200
    with pytest.raises(AttributeError):
        client.post(URL, json=body(id="device"), headers=alice.headers)


def test_what_goes_wrong_is_answered_as_everywhere(app, client, alice, monkeypatch):
    def fail(registration):
        raise RuntimeError("secret")

    monkeypatch.setattr(app.extensions["push_registry"].registrar, "register", fail)
    answer = client.post(URL, json=body(), headers=alice.headers)
    assert answer.status_code == 500
    assert answer.json == {"success": False, "error": "Internal server error"}
