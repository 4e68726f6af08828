"""Service keys that are bound to apps, that have an end, and what is known of their use."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from app import services

LOOKUP = "/api/v1/push.tokens.lookup"
LIST = "/api/v1/push.tokens.list"
FEEDBACK = "/api/v1/push.tokens.feedback"


def verdict(app_name: str, value: str) -> dict[str, object]:
    sent = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    fields = {"provider": "fcm", "status": 404, "error": "UNREGISTERED", "sentAt": sent}
    return {**fields, "appName": app_name, "value": value}


@pytest.fixture
def registered(register, alice):
    """A registration of alice in each of three apps; its value is the app's name."""
    for name in ("one", "two", "three"):
        register(alice, type="gcm", appName=name, value=name)


def apps(answer) -> set[str]:
    assert answer.status_code == 200, answer.text
    return {token["appName"] for token in answer.json["tokens"]}


def test_a_bound_key_finds_registrations_of_its_apps_only(client, registered, issue):
    bound = issue("lookup", apps=["one", "two"])
    every, ask = issue("lookup"), {"userIds": ["alice"]}
    assert apps(client.post(LOOKUP, json=ask, headers=every)) == {"one", "two", "three"}
    assert apps(client.post(LOOKUP, json=ask, headers=bound)) == {"one", "two"}
    assert apps(client.post(LOOKUP, json={**ask, "appName": "one"}, headers=bound)) == {"one"}
    assert apps(client.post(LOOKUP, json={**ask, "appName": "three"}, headers=bound)) == set()
    assert apps(client.post(LIST, json={}, headers=bound)) == {"one", "two"}
    assert apps(client.post(LIST, json={"appName": "three"}, headers=bound)) == set()


def test_to_a_bound_key_other_apps_registrations_are_unknown(client, registered, issue, database):
    bound = issue("feedback", apps=["one"])
    sent = {"results": [verdict("one", "one"), verdict("two", "two"), verdict("two", "none")]}
    answer = client.post(FEEDBACK, json=sent, headers=bound)
    assert answer.json == {"removed": 1, "kept": 0, "unknown": 2, "success": True}
    assert {row["app_name"] for row in database.push_tokens()} == {"two", "three"}
    kept = {**verdict("two", "two"), "status": 500}
    answer = client.post(FEEDBACK, json={"results": [kept]}, headers=bound)
    assert answer.json == {"removed": 0, "kept": 0, "unknown": 1, "success": True}


def test_a_key_for_sessions_cannot_be_bound(issuer, database):
    arguments = ["issue", "x", "--scope", "sessions", "--app-name", "one"]
    result = issuer.invoke(args=["service-keys", *arguments])
    assert result.exit_code == 2
    assert "Sessions belong to no app" in result.stderr
    assert database.rows("SELECT 1 FROM service_keys") == []


@pytest.mark.parametrize("name", ["", "x" * 256])
def test_an_app_has_a_name_within_the_limits(issuer, name):
    arguments = ["issue", "x", "--scope", "lookup", "--app-name", name]
    assert issuer.invoke(args=["service-keys", *arguments]).exit_code == 2


def test_issuing_says_which_apps_a_key_is_bound_to(issuer):
    arguments = ["issue", "x", "--scope", "lookup", "--app-name", "b", "--app-name", "a"]
    issued = json.loads(issuer.invoke(args=["service-keys", *arguments]).stdout)
    assert (issued["name"], issued["scopes"], issued["appNames"]) == ("x", ["lookup"], ["a", "b"])


def shown(issuer) -> list[dict[str, object]]:
    """Return what `service-keys list` prints."""
    lines = issuer.invoke(args=["service-keys", "list"]).stdout.splitlines()
    return [json.loads(line) for line in lines]


def test_a_key_is_good_until_its_end(client, issuer, database):
    arguments = ["issue", "x", "--scope", "lookup", "--days", "2"]
    key = json.loads(issuer.invoke(args=["service-keys", *arguments]).stdout)["key"]
    headers = {"Authorization": f"Bearer {key}"}
    assert client.post(LOOKUP, json={"userIds": ["x"]}, headers=headers).status_code == 200
    ends = datetime.fromisoformat(str(shown(issuer)[0]["expiresAt"]))
    assert abs(ends - datetime.now(UTC) - timedelta(days=2)) < timedelta(minutes=1)
    database.execute("UPDATE service_keys SET expires_at = now()")
    assert client.post(LOOKUP, json={"userIds": ["x"]}, headers=headers).status_code == 401


def test_keeping_the_latest_keeps_one_that_is_good(issuer, issue, client, database):
    good = issue("lookup")
    issue("lookup")
    database.execute(
        "UPDATE service_keys SET expires_at = now() WHERE created_at ="
        " (SELECT max(created_at) FROM service_keys)"
    )
    revoked = issuer.invoke(args=["service-keys", "revoke", "sender", "--keep-latest"])
    assert (revoked.exit_code, json.loads(revoked.stdout)["revoked"]) == (0, 0)
    assert client.post(LOOKUP, json={"userIds": ["x"]}, headers=good).status_code == 200


def test_the_list_says_when_a_key_was_last_used(new_app, database_url, issue, issuer, database):
    """Noted at the first request and an hour later, not with each; a failure stops none."""
    app = new_app(database_url=database_url)
    client, headers, ask = app.test_client(), issue("lookup"), {"userIds": ["x"]}
    assert shown(issuer)[0]["lastUsedAt"] is None
    assert client.post(FEEDBACK, json={}, headers=headers).status_code == 403
    assert shown(issuer)[0]["lastUsedAt"] is not None
    database.execute("UPDATE service_key_uses SET used_at = '2020-01-01'")
    for _ in range(3):
        assert client.post(LOOKUP, json=ask, headers=headers).status_code == 200
    assert shown(issuer)[0]["lastUsedAt"] == "2020-01-01T00:00:00.000Z"
    due = services.of(app).key_uses
    due.update(dict.fromkeys(due, 0.0))  # an hour later
    assert client.post(LOOKUP, json=ask, headers=headers).status_code == 200
    assert shown(issuer)[0]["lastUsedAt"] != "2020-01-01T00:00:00.000Z"


def test_a_use_that_cannot_be_noted_stops_no_request(new_app, database_url, issue, database):
    app = new_app(database_url=database_url)
    client, headers = app.test_client(), issue("lookup")
    database.execute("ALTER TABLE service_key_uses RENAME TO elsewhere")
    try:
        answer = client.post(LOOKUP, json={"userIds": ["x"]}, headers=headers)
    finally:
        database.execute("ALTER TABLE elsewhere RENAME TO service_key_uses")
    assert answer.status_code == 200


def test_the_history_says_who_issued_and_revoked_what(issue, issuer, database):
    issue("feedback", "lookup", apps=["one"])
    issuer.invoke(args=["service-keys", "revoke", "sender"])
    lines = issuer.invoke(args=["service-keys", "history"]).stdout.splitlines()
    issued, revoked = (json.loads(line) for line in lines)
    assert (issued["event"], revoked["event"]) == ("issued", "revoked")
    assert issued["at"] <= revoked["at"]
    (role,) = {row["role"] for row in database.rows("SELECT role FROM service_key_events")}
    for line in (issued, revoked):
        assert (line["name"], line["role"], line["appNames"]) == ("sender", role, ["one"])
        assert line["scopes"] == ["feedback", "lookup"]
        assert line["keyId"] == shown(issuer)[0]["keyId"]
