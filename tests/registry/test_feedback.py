"""The providers' verdicts: each row of the table, and what is never removed."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.answers import refused
from tests.support.factories import APNS_TOKEN, FCM_TOKEN, body, iso
from tests.support.filled import register_many
from tests.support.statements import count_statements

FEEDBACK = "/api/v1/push.tokens.feedback"


def verdict(**changes: object) -> dict[str, object]:
    fields = {
        "appName": "chat.example",
        "value": FCM_TOKEN,
        "provider": "fcm",
        "status": 404,
        "error": "UNREGISTERED",
        "sentAt": iso(datetime.now(UTC) + timedelta(seconds=1)),
        **changes,
    }
    return {name: value for name, value in fields.items() if value is not None}


def counts(answer) -> tuple[int, int, int]:
    assert answer.status_code == 200, answer.text
    assert list(answer.json) == ["removed", "kept", "unknown", "success"]
    return answer.json["removed"], answer.json["kept"], answer.json["unknown"]


def unreadable(answer, *problems: str) -> None:
    """Check that these verdicts, by their places, could not be read, and why."""
    assert answer.status_code == 200, answer.text
    assert answer.json["invalid"] == len(answer.json["errors"]) == len(problems)
    for said, problem in zip(answer.json["errors"], problems, strict=True):
        assert f"{said['index']}.{said['error']}".startswith(problem), said


def apns(**changes: object) -> dict[str, object]:
    gone = {"provider": "apns", "value": APNS_TOKEN, "status": 410, "error": None}
    return verdict(**{**gone, "reason": "Unregistered", **changes})


@pytest.mark.parametrize(
    ("said", "removed"),
    [
        (verdict(), True),
        (verdict(error=None), False),
        (verdict(error="NOT_FOUND"), False),
        (verdict(status=400, error="INVALID_ARGUMENT"), False),
        (verdict(status=400, error="INVALID_ARGUMENT", payloadValid=True), True),
        (verdict(status=400, error="INVALID_ARGUMENT", credentialsValid=True), False),
        (verdict(status=403, error="SENDER_ID_MISMATCH"), False),
        (verdict(status=403, error="SENDER_ID_MISMATCH", credentialsValid=True), True),
        (verdict(status=403, error="SENDER_ID_MISMATCH", payloadValid=True), False),
        (verdict(status=429, error="QUOTA_EXCEEDED"), False),
        (verdict(status=503, error="UNAVAILABLE"), False),
        (verdict(status=410, error="Unregistered"), False),
        (apns(), True),
        (apns(reason="ExpiredToken"), True),
        (apns(reason=None), True),
        (apns(value=APNS_TOKEN.upper()), True),
        (apns(status=400, reason="BadDeviceToken"), False),
        (apns(status=400, reason="BadDeviceToken", environmentRight=True), True),
        (apns(status=400, reason="BadDeviceToken", payloadValid=True), False),
        (apns(status=400, reason="DeviceTokenNotForTopic"), False),
        (apns(status=429, reason="TooManyRequests"), False),
        (apns(status=500, reason="InternalServerError"), False),
        (apns(status=404, reason="UNREGISTERED"), False),
    ],
)
def test_the_rules(call, register, alice, database, said, removed):
    register(alice)
    register(alice, type="apn", value=APNS_TOKEN)
    said = {**said, "sentAt": verdict()["sentAt"]}
    assert counts(call(FEEDBACK, {"results": [said]})) == ((1, 0, 0) if removed else (0, 1, 0))
    assert len(database.push_tokens()) == (1 if removed else 2)


@pytest.mark.parametrize(
    "said",
    [
        verdict(value="other"),
        verdict(appName="other"),
        apns(value=FCM_TOKEN),  # a push token of Google's of which Apple speaks
    ],
)
def test_what_is_not_here_is_unknown(call, register, alice, said):
    register(alice)
    assert counts(call(FEEDBACK, {"results": [said]})) == (0, 0, 1)


def test_what_was_renewed_after_the_verdict_stays(call, register, alice, database):
    register(alice)
    register(alice, type="apn", value=APNS_TOKEN)
    renewed = database.push_tokens()[0]["updated_at"]
    before = renewed - timedelta(seconds=1)
    milliseconds = int(before.timestamp() * 1000)
    late = iso(renewed + timedelta(minutes=1))
    verdicts = [verdict(sentAt=iso(before)), apns(timestamp=milliseconds, sentAt=late)]
    assert counts(call(FEEDBACK, {"results": verdicts})) == (0, 2, 0)
    # The same instant to the millisecond does not tell which came first: it stays.
    same = iso(database.push_tokens()[1]["updated_at"] + timedelta(microseconds=999))
    assert counts(call(FEEDBACK, {"results": [verdict(sentAt=same)]})) == (0, 1, 0)
    assert counts(call(FEEDBACK, {"results": [verdict(), apns()]})) == (2, 0, 0)


def test_each_verdict_counts_once_also_when_they_repeat(call, register, alice):
    register(alice)
    keeps = verdict(status=503, error="UNAVAILABLE")
    results = [keeps, verdict(), verdict(), keeps, verdict(value="x")]
    removed, kept, unknown = counts(call(FEEDBACK, {"results": results}))
    assert (removed, removed + kept + unknown) == (1, 5)


def test_several_verdicts_on_one_push_token_add_up(call, register, alice):
    early, busy = "2020-01-01T00:00:00Z", {"status": 503, "error": "UNAVAILABLE"}
    for changes, expected in [
        ([busy, {"status": 429}], (0, 2, 0)),
        ([{"sentAt": early}, busy], (0, 2, 0)),
        ([{"sentAt": early}, {}], (1, 1, 0)),
        ([{}, busy], (1, 0, 1)),
        ([busy, {}], (1, 1, 0)),
    ]:
        register(alice)
        results = [verdict(**one) for one in changes]
        assert counts(call(FEEDBACK, {"results": results})) == expected


def test_a_verdict_a_little_ahead_is_taken_and_one_far_ahead_refused(
    call,
    register,
    alice,
    database,
):
    register(alice)
    now = datetime.now(UTC)
    far, near = iso(now + timedelta(minutes=6)), iso(now + timedelta(minutes=4))
    tomorrow = int((now + timedelta(days=1)).timestamp() * 1000)
    results = [verdict(value="x"), verdict(sentAt=far), apns(timestamp=tomorrow)]
    answer = call(FEEDBACK, {"results": results})
    ahead = "Is more than 5 minutes in the future."
    unreadable(answer, f"1.sentAt: {ahead}", f"2.timestamp: {ahead}")
    assert answer.json["unknown"] == 1
    assert len(database.push_tokens()) == 1
    assert counts(call(FEEDBACK, {"results": [verdict(sentAt=near)]})) == (1, 0, 0)


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (verdict(appName=""), "1.appName: Missing"),
        (verdict(value="x" * 2049), "1.value: "),
        (verdict(value="\0"), "1.value: "),
        (verdict(provider="hms"), "1.provider: "),
        (verdict(provider=["fcm"]), "1.provider: "),
        (verdict(status="4O4"), "1.status: "),
        (verdict(status="(timeout)"), "1.status: "),
        (verdict(status=True), "1.status: "),
        (verdict(status=4.04), "1.status: "),
        (verdict(status=99), "1.status: "),
        (verdict(status=600), "1.status: "),
        (verdict(timestamp="soon"), "1.timestamp: "),
        (verdict(timestamp="2026-01-01T00:00:00"), "1.timestamp: "),
        (verdict(timestamp=True), "1.timestamp: "),
        (verdict(timestamp=10**18), "1.timestamp: "),
        (verdict(sentAt="now"), "1.sentAt: "),
        (verdict(sentAt=1536690175006), "1.sentAt: "),
        (verdict(sentAt="2026-01-01T00:00:00"), "1.sentAt: "),
        (verdict(error=["UNREGISTERED"]), "1.error: "),
        (verdict(payloadValid="yes"), "1.payloadValid: "),
        (verdict(credentialsValid=1), "1.credentialsValid: "),
        (verdict(environmentRight=0), "1.environmentRight: "),
        (5, "1.Invalid input type."),
        (None, "1."),
        ({}, "1.appName: "),
    ],
)
def test_one_that_cannot_be_read_is_named_and_spoils_no_other(
    call, register, alice, database, said, problem
):
    register(alice)
    answer = call(FEEDBACK, {"results": [verdict(value="x"), said, verdict()]})
    unreadable(answer, problem)
    assert list(answer.json) == ["removed", "kept", "unknown", "invalid", "errors", "success"]
    assert [answer.json[name] for name in ("removed", "kept", "unknown")] == [1, 0, 1]
    assert database.push_tokens() == []


def test_each_verdict_is_answered_where_that_is_wanted(call, register, alice):
    register(alice)
    register(alice, type="apn", value=APNS_TOKEN)
    early = "2020-01-01T00:00:00Z"
    bad = apns(status=400, reason="BadDeviceToken")
    none = apns(status=0, reason=None)
    results = [apns(sentAt=early), bad, none, apns(status=429), 5, apns(), apns(), verdict()]
    answer = call(FEEDBACK, {"results": results, "each": True})
    assert list(answer.json)[3:] == ["invalid", "errors", "results", "success"]
    told = answer.json["results"]
    assert [(one["index"], one["outcome"], one["reason"]) for one in told] == [
        (0, "kept", "registered again since"),
        (1, "kept", "needs environmentRight"),
        (2, "kept", "no answer"),
        (3, "kept", "not final"),
        (4, "invalid", "Invalid input type."),
        (5, "removed", "dead"),
        (6, "unknown", "no registration"),
        (7, "removed", "dead"),
    ]
    assert list(told[0]) == ["index", "outcome", "reason"]
    assert "results" not in call(FEEDBACK, {"results": [verdict()], "each": False}).json
    refused(call(FEEDBACK, {"results": [verdict()], "each": 1}), "each: ")


@pytest.mark.parametrize("results", [None, [], "x", {}, [{}] * 1001])
def test_refuses_what_is_no_list_of_verdicts(call, results):
    refused(call(FEEDBACK, {"results": results}), "results")


def test_a_thousand_verdicts_are_a_handful_of_statements(
    call,
    database,
    monkeypatch,
):
    register_many(database, 1000)
    results = [verdict(appName="app", value=f"token{n}") for n in range(1000)]
    call(FEEDBACK, {"results": [verdict(value="x")]})
    keeps = [{**one, "status": 503} for one in results]
    for verdicts, expected in [(keeps, (0, 1000, 0)), (results, (1000, 0, 0))]:
        with monkeypatch.context() as patch:
            statements = count_statements(patch)
            assert counts(call(FEEDBACK, {"results": verdicts})) == expected
        assert len(statements) <= 8


def test_a_registration_renewed_meanwhile_is_never_removed(
    call,
    new_app,
    database_url,
    alice,
    database,
):
    """Old verdicts race against refreshes: whoever was answered 200 after them is still there."""
    client = new_app(database_url=database_url).test_client()
    later = 0
    for number in range(40):
        value = f"v{number}"
        url = "/api/v1/push.token"
        client.post(url, json=body(value=value), headers=alice.headers)
        sent_at = database.rows("SELECT clock_timestamp() + interval '2 ms' AS at")[0]["at"]
        answers = []

        def refresh(value=value, answers=answers, url=url):
            answers.append(client.post(url, json=body(value=value), headers=alice.headers))

        thread = threading.Thread(target=refresh)
        thread.start()
        call(FEEDBACK, {"results": [verdict(value=value, sentAt=iso(sent_at))]})
        thread.join()
        result = answers[0].json["result"]
        renewed = datetime.fromisoformat(result["updatedAt"])
        if renewed > sent_at:
            later += 1
            assert [r for r in database.push_tokens() if r["token"] == value], number
    assert later


def test_only_apns_says_itself_when_a_push_token_died(call, alice, register):
    """FCM gives no timestamp; one that a sender makes up does not make a verdict newer."""
    register(alice, value=FCM_TOKEN)
    now = int(datetime.now(UTC).timestamp() * 1000) + 1000
    old = iso(datetime.now(UTC) - timedelta(days=1))
    assert counts(call(FEEDBACK, {"results": [verdict(sentAt=old, timestamp=now)]})) == (0, 1, 0)
