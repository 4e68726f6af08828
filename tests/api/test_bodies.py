"""How much a body may be, and what a large one costs before it is refused."""

import base64
import hashlib
import json

import pytest
from marshmallow import ValidationError

from app.api import service_schemas, verdict_schemas
from app.api.bodies import BODY_LIMITS, MAX_BODY, MAX_SEPARATORS
from tests.support.patience import keeps, seconds

HASHES = [base64.b64encode(hashlib.sha256(b"%d" % n).digest()).decode() for n in range(1000)]
DATE = "2126-11-24T08:00:00.000000+00:00"
VERDICT = {
    **{"appName": "x" * 255, "provider": "apns", "status": 404, "error": "x" * 255},
    **{"timestamp": 1795507200000, "sentAt": DATE.replace("2126", "2026")},
    **{"payloadValid": False, "credentialsValid": False},
}
NARROWING = {
    **{"appName": "x" * 255, "type": "apn", "environment": "production"},
    "withEnvironment": False,
}
USERS = [f"{n:x>255}" for n in range(1000)]
LARGEST = {
    "push.tokens.lookup": {"userIds": USERS, **NARROWING},
    "push.tokens.list": {
        **NARROWING,
        **{"updatedSince": DATE, "count": 1000, "cursor": service_schemas.Cursor.of("x" * 64)},
    },
    "push.tokens.feedback": {
        "results": [{**VERDICT, "value": f"{n:x>2048}"} for n in range(1000)]
    },
    "sessions.put": {
        "sessions": [
            {"userId": user, "hashedToken": digest, "expiresAt": DATE}
            for user, digest in zip(USERS, HASHES, strict=True)
        ]
    },
    "sessions.revoke": {"userId": "x" * 255, "exceptHashedTokens": HASHES},
}


def escaped(value: object) -> str:
    """Write JSON with every character of every string as an escape."""
    if isinstance(value, str):
        return '"' + "".join(f"\\u{ord(character):04x}" for character in value) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(map(escaped, value)) + "]"
    if isinstance(value, dict):
        pairs = (f"{escaped(name)}: {escaped(item)}" for name, item in value.items())
        return "{" + ", ".join(pairs) + "}"
    return json.dumps(value)


@pytest.fixture
def send(client, issue):
    """A function that sends bytes as JSON, with a key of all scopes, and returns the answer."""
    headers = issue("lookup", "feedback", "sessions") | {"Content-Type": "application/json"}
    return lambda name, data: client.post(f"/api/v1/{name}", data=data, headers=headers)


@pytest.mark.parametrize("name", LARGEST)
def test_the_largest_request_of_each_call_fits_and_not_much_more(send, name):
    body, limit = escaped(LARGEST[name]), BODY_LIMITS.get(f"/api/v1/{name}", MAX_BODY)
    assert send(name, body).status_code == 200
    assert len(body) > limit / 2 or limit == MAX_BODY
    assert send(name, body + " " * (limit - len(body))).status_code == 200
    assert send(name, body + " " * (limit + 1 - len(body))).status_code == 413


def test_the_table_has_only_calls_that_there_are(app):
    assert set(BODY_LIMITS) < {rule.rule for rule in app.url_map.iter_rules()}


@pytest.mark.parametrize(
    "data",
    [
        "[" * 16_000_000,
        '{"results":[' + "{}," * 5_000_000 + "{}]}",
        '{"results":[' + "0," * 8_000_000 + "0]}",
        '{"results":[' + '"",' * 5_000_000 + "0]}",
        '{"results":[' + '"\\\\",' * MAX_SEPARATORS + "0]}",
    ],
    ids=["nested", "objects", "numbers", "strings", "escapes"],
)
def test_a_body_of_too_many_values_is_refused_unparsed(send, monkeypatch, data):
    def parse(body: bytes) -> None:
        raise AssertionError("parsed")

    monkeypatch.setattr("app.api.bodies.orjson.loads", parse)
    answer = send("push.tokens.feedback", data)
    assert answer.status_code == 400
    assert json.loads(answer.data)["error"].startswith("body: Has too many elements.")


@pytest.mark.parametrize("user_id", ["," * 255, '"' * 255, '\\",' * 85, "{[" * 127])
def test_what_stands_in_strings_is_not_counted(send, user_id):
    body = json.dumps({"userIds": [user_id] * 1000})
    assert send("push.tokens.lookup", body).status_code == 200


@pytest.mark.parametrize(
    ("schema", "body"),
    [
        (service_schemas.lookup, {"userIds": [0] * 1_000_000}),
        (verdict_schemas.feedback, {"results": [0] * 1_000_000}),
        (service_schemas.put_sessions, {"sessions": [0] * 1_000_000}),
        (service_schemas.revoke_sessions, {"userId": "x", "exceptHashedTokens": [0] * 1_000_000}),
    ],
    ids=["lookup", "feedback", "put", "revoke"],
)
def test_a_list_too_long_is_refused_without_a_look_at_its_elements(schema, body):

    def refuse() -> None:
        with pytest.raises(ValidationError) as refused:
            schema.load(body)
        (message,) = refused.value.messages.values()
        assert message in (["Must have 1 to 1000 elements."], ["Must have 0 to 1000 elements."])

    keeps(0.25, lambda: seconds(refuse))  # 5 to 10 s for a look at each


def test_the_first_bad_element_is_the_error():
    announced = {"userId": "x", "hashedToken": HASHES[0]}
    with pytest.raises(ValidationError) as refused:
        service_schemas.put_sessions.load({"sessions": [announced, {"userId": "x"}, 0]})
    missing = {"hashedToken": ["Missing data for required field."]}
    assert refused.value.messages == {"sessions": {1: missing}}
