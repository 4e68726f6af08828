"""What libraries make of a provider's answer: what is read in it, and what it does."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from app.registry import verdicts
from app.registry.verdicts import FCM_ERROR, code_of
from tests.support.factories import APNS_TOKEN, FCM_TOKEN, iso

FEEDBACK = "/api/v1/push.tokens.feedback"
NODE = "messaging/registration-token-not-registered"


def error_object(status: str = "NOT_FOUND", code: str = "UNREGISTERED", number: int = 404):
    """Return FCM's error object, as its documentation shows it."""
    details = [{"@type": "type.googleapis.com/google.rpc.BadRequest"}]
    details += [{"@type": FCM_ERROR, "errorCode": code}] if code else []
    message = "Requested entity was not found."
    return {"code": number, "message": message, "status": status, "details": details}


UNREGISTERED, BARE = error_object(), error_object(code="")
GONE = {"reason": "Unregistered", "timestamp": 1764000000000}


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("UNREGISTERED", "UNREGISTERED"),
        (UNREGISTERED, "UNREGISTERED"),
        ({"error": UNREGISTERED}, "UNREGISTERED"),
        (BARE, "NOT_FOUND"),
        ({"error": BARE}, "NOT_FOUND"),
        (NODE, "UNREGISTERED"),
        ({"code": NODE, "message": "x"}, "UNREGISTERED"),
        ({"errorInfo": {"code": NODE, "message": "x"}, "codePrefix": "messaging"}, "UNREGISTERED"),
        # firebase-admin 14 says what FCM answered, and only that tells a wrong project.
        ({"code": NODE, "httpResponse": {"status": 404, "data": {"error": BARE}}}, "NOT_FOUND"),
        (
            {"code": NODE, "httpResponse": {"status": 404, "data": {"error": UNREGISTERED}}},
            "UNREGISTERED",
        ),
        ({"code": NODE, "httpResponse": {"status": 404, "data": "<html>"}}, "UNREGISTERED"),
        ("messaging/installation-id-not-registered", "UNREGISTERED"),
        ("messaging/mismatched-credential", "SENDER_ID_MISMATCH"),
        ("messaging/invalid-argument", "INVALID_ARGUMENT"),
        ({"reason": "BadDeviceToken"}, "BadDeviceToken"),
        # An element of `failed` of node-apn, an error of apns2, and one of googleapis, all of Node
        ({"device": "x", "status": 410, "response": GONE}, "Unregistered"),
        (
            {"statusCode": 410, "notification": {"deviceToken": "x"}, "response": GONE},
            "Unregistered",
        ),
        ({"code": "404", "response": {"data": {"error": UNREGISTERED}}}, "UNREGISTERED"),
        ({}, None),
        ({"details": "x", "status": 5, "code": ["x"]}, None),
        ({"error": {"error": {"error": {"error": {"error": UNREGISTERED}}}}}, None),
    ],
)
def test_the_code_is_found_in_what_libraries_give(said, code):
    assert code_of(said) == code


def test_no_text_is_parsed_that_is_longer_than_an_answer(monkeypatch):
    parsed: list[str] = []
    monkeypatch.setattr(verdicts.orjson, "loads", parsed.append)
    text = '{"reason":"Unregistered","more":"' + "x" * verdicts.MAX_TEXT + '"}'
    assert verdicts.body_of(text) is None
    assert verdicts.opened(text) == text
    assert parsed == []


def verdict(**fields: object) -> dict[str, object]:
    sent_at = iso(datetime.now(UTC) + timedelta(seconds=1))
    given = {"appName": "chat.example", "value": FCM_TOKEN, "provider": "fcm", "sentAt": sent_at}
    return given | fields


def apns(**fields: object) -> dict[str, object]:
    return verdict(**{"value": APNS_TOKEN, "provider": "apns", **fields})


@pytest.mark.parametrize(
    ("said", "removed"),
    [
        (verdict(status="404", error="UNREGISTERED", reason=None, timestamp=None), True),
        (verdict(status="404", error="UNREGISTERED", reason="", payloadValid=None), True),
        (verdict(error="UNREGISTERED"), True),
        (verdict(error=UNREGISTERED), True),
        (verdict(status=404, error={"error": UNREGISTERED}), True),
        (verdict(status=404, response={"error": UNREGISTERED}), True),
        (verdict(status=404, response='{"error":{"status":"NOT_FOUND"}}'), False),
        (verdict(status=404, error="NOT_FOUND", response={"error": UNREGISTERED}), True),
        (verdict(status=404, response="<html>gone</html>"), False),
        (verdict(status=404, response=7, error=BARE), False),
        (verdict(error=NODE), True),
        (verdict(error={"code": NODE, "message": "Requested entity was not found."}), True),
        (verdict(provider="gcm", error=NODE), True),
        (verdict(provider="gcm", error="messaging/invalid-argument"), False),
        (verdict(error="messaging/invalid-argument", payloadValid=True), True),
        (verdict(error="messaging/internal-error"), False),
        (verdict(status=0, error="UNREGISTERED"), False),
        (verdict(status="0", error="ConnectError"), False),
        (verdict(status=None, error=None), False),
        (verdict(), False),
        (apns(status="410", reason="Unregistered", timestamp=None), True),
        (apns(status="410"), True),
        (apns(reason="Unregistered"), True),
        (apns(reason="ExpiredToken"), True),
        (apns(provider="apn", status=410), True),
        (apns(status=410, response={"reason": "Unregistered"}), True),
        (apns(response='{"reason":"BadDeviceToken"}', environmentRight=True), True),
        (apns(response='{"reason":"BadDeviceToken"}'), False),
        (apns(error='{"reason":"Unregistered"}'), True),
        (apns(error="{no JSON"), False),
        (apns(error={"jse_shortmsg": "apn write failed"}), False),
        # Codes as other languages write them.
        (verdict(error="Unregistered"), True),
        (verdict(error="invalid_argument"), False),
        (verdict(error="SenderIdMismatch", credentialsValid=True), True),
        (verdict(error="NotFound"), False),
        # The names of firebase-admin's exceptions in Python; a wrong project is a NotFoundError.
        (verdict(error="UnregisteredError"), True),
        (verdict(error="SenderIdMismatchError"), False),
        (verdict(error="NotFoundError"), False),
        (apns(reason="unregistered"), True),
        (apns(reason="bad_device_token"), False),
        (apns(reason="bad_device_token", environmentRight=True), True),
        (apns(reason="device_token_not_for_topic", environmentRight=True), False),
    ],
)
def test_what_it_does(call, register, alice, said, removed):
    register(alice)
    register(alice, type="apn", value=APNS_TOKEN)
    answer = call(FEEDBACK, {"results": [said | {"sentAt": verdict()["sentAt"]}]})
    assert (answer.json["removed"], answer.json["kept"]) == ((1, 0) if removed else (0, 1))


@pytest.mark.parametrize("provider", ["apn", "voip", "apns"])
def test_a_provider_speaks_of_its_own_types(call, register, alice, provider):
    """What lookup calls a push token; Google's is none of Apple's."""
    register(alice)
    results = [apns(provider=provider, value=FCM_TOKEN, status=410)]
    assert call(FEEDBACK, {"results": results}).json["unknown"] == 1


def milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


@pytest.mark.parametrize("form", [milliseconds, iso, lambda at: str(milliseconds(at))])
def test_apns_own_moment_decides_in_each_form(call, register, alice, database, form):
    register(alice, type="apn", value=APNS_TOKEN)
    renewed = database.push_tokens()[0]["updated_at"]
    before, after = form(renewed - timedelta(seconds=1)), form(renewed + timedelta(seconds=1))
    body = {"reason": "Unregistered", "timestamp": before}
    wrapped = {"device": APNS_TOKEN, "status": 410, "response": body}
    kinds = ("response", "error", "reason")
    places = [{name: said} for name in kinds for said in (body, json.dumps(body), wrapped)]
    for said in ({"timestamp": before}, *places):
        results = [apns(status=410, **said)]
        assert call(FEEDBACK, {"results": results}).json["kept"] == 1
    results = [apns(status=410, timestamp=after, sentAt=iso(renewed - timedelta(days=1)))]
    assert call(FEEDBACK, {"results": results}).json["removed"] == 1


@pytest.mark.parametrize("moment", [0, -1, 1764000000, "1764000000", "2014-12-31T23:59:59Z", None])
def test_a_moment_before_2015_is_none(call, register, alice, moment):
    """Seconds and 0 are no milliseconds: they must not keep a dead push token for ever."""
    register(alice, type="apn", value=APNS_TOKEN)
    results = [apns(status=410, timestamp=moment)]
    assert call(FEEDBACK, {"results": results}).json["removed"] == 1


def test_what_is_too_long_is_neither_a_code_nor_a_moment():
    assert code_of("A" * 256) == "A" * 256
    assert code_of("A" * 257) is None
    assert code_of({"reason": "A" * 257}) is None
    with pytest.raises(ValueError, match="too long"):
        verdicts.as_moment("2026-11-24T00:14:20.504" + "0" * 41 + "Z")
