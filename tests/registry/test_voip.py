"""VoIP push tokens: a second registration of a device, for calls, through every call."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.support.factories import APNS_TOKEN, FCM_TOKEN, body, iso

URL = "/api/v1/push.token"
LOOKUP, LIST = "/api/v1/push.tokens.lookup", "/api/v1/push.tokens.list"
VOIP_TOKEN = "c0ffee" * 10 + "cafe"
OTHER_TOKEN, OTHER_VOIP = "ab" * 32, "cd" * 32


def phone(**changes: object) -> dict[str, object]:
    """Return what today's iOS app sends."""
    sent = {"type": "apn", "value": APNS_TOKEN, "id": "iphone", "voipToken": VOIP_TOKEN}
    return {**sent, **changes}


@pytest.fixture
def stored(database):
    """A function that returns users and push tokens by type."""

    def stored() -> dict[str, set[tuple[str, str]]]:
        found: dict[str, set[tuple[str, str]]] = {}
        for row in database.push_tokens():
            found.setdefault(row["type"], set()).add((row["user_id"], row["token"]))
        return found

    return stored


APN = {"apn": {("alice", APNS_TOKEN)}}
BOTH = APN | {"voip": {("alice", VOIP_TOKEN)}}


def test_it_is_a_registration_of_the_same_device(register, alice, stored, database):
    result = register(alice, **phone(voipToken=VOIP_TOKEN.upper(), environment="sandbox"))
    assert (result["token"], result["_id"]) == ({"apn": APNS_TOKEN}, "iphone")
    assert "voipToken" not in result
    assert stored() == BOTH
    assert {(row["device_id"], row["environment"]) for row in database.push_tokens()} == {
        ("iphone", "sandbox")
    }
    created = {row["type"]: row["created_at"] for row in database.push_tokens()}
    register(alice, **phone(value=OTHER_TOKEN, voipToken=OTHER_VOIP))
    assert stored() == {"apn": {("alice", OTHER_TOKEN)}, "voip": {("alice", OTHER_VOIP)}}
    assert {row["type"]: row["created_at"] for row in database.push_tokens()} == created


def test_both_push_tokens_may_change_places(register, alice, stored, database):
    register(alice, **phone(voipToken=None))
    register(alice, **phone(value=OTHER_TOKEN, voipToken=APNS_TOKEN))
    assert len({row["id"] for row in database.push_tokens()}) == 2
    register(alice, **phone(value=APNS_TOKEN, voipToken=OTHER_TOKEN))
    assert stored() == {"apn": {("alice", APNS_TOKEN)}, "voip": {("alice", OTHER_TOKEN)}}
    assert len({row["id"] for row in database.push_tokens()}) == 2


@pytest.mark.parametrize("none", [{}, {"voipToken": None}, {"voipToken": ""}])
def test_left_out_it_goes(register, alice, stored, none):
    register(alice, **phone())
    sent = {name: value for name, value in phone().items() if name != "voipToken"}
    register(alice, **sent, **none)
    assert stored() == APN


def test_who_names_no_device_leaves_it_and_android_ends_it(register, alice, stored):
    register(alice, **phone())
    register(alice, type="apn", value=APNS_TOKEN)
    assert stored() == BOTH
    register(alice, **phone(type="gcm", value=FCM_TOKEN))
    assert stored() == {"gcm": {("alice", FCM_TOKEN)}}


@pytest.mark.parametrize(
    ("wrong", "error_type"),
    [
        ({"voipToken": 5}, "error-voipToken-param-not-valid"),
        ({"voipToken": False}, "error-voipToken-param-not-valid"),
        ({"voipToken": "x" * 2049}, "error-voipToken-param-not-valid"),
        ({"voipToken": "\0"}, "error-voipToken-param-not-valid"),
        ({"voipToken": APNS_TOKEN.upper()}, "error-voipToken-param-not-valid"),
        ({"voipToken": 5, "environment": "x"}, "error-environment-param-not-valid"),
        ({"voipToken": 5, "value": ""}, "error-token-param-not-valid"),
        ({"id": None, "environment": "x"}, "error-environment-param-not-valid"),
    ],
)
def test_it_is_the_last_field_that_is_checked(client, alice, wrong, error_type, stored):
    answer = client.post(URL, json=body(**phone(**wrong)), headers=alice.headers)
    assert (answer.status_code, answer.json["errorType"]) == (400, error_type)
    assert stored() == {}


@pytest.mark.parametrize("voip_token", [VOIP_TOKEN, 5, APNS_TOKEN])
def test_without_a_device_it_is_refused_and_with_gcm_ignored(
    client, register, alice, voip_token, stored
):
    sent = body(**phone(id="", voipToken=voip_token))
    answer = client.post(URL, json=sent, headers=alice.headers)
    said = {"success": False, "error": "voip-tokens-must-specify-device-id"}
    assert (answer.status_code, answer.json) == (400, said)
    register(alice, **phone(type="gcm", value=FCM_TOKEN, voipToken=voip_token))
    register(alice, type="gcm", value=FCM_TOKEN, voipToken=voip_token)
    assert stored() == {"gcm": {("alice", FCM_TOKEN)}}


@pytest.mark.parametrize("named", [{"id": "iphone"}, {"id": "other"}, {}])
def test_no_call_rings_on_a_phone_that_changed_hands(register, alice, bob, stored, named):
    register(alice, **phone())
    register(bob, type="apn", value=APNS_TOKEN, **named)
    assert stored() == {"apn": {("bob", APNS_TOKEN)}}


def test_with_the_phone_its_voip_push_token_moves(register, alice, bob, stored):
    register(alice, **phone())
    register(bob, **phone())
    assert stored() == {"apn": {("bob", APNS_TOKEN)}, "voip": {("bob", VOIP_TOKEN)}}


def test_the_app_does_not_see_it_and_can_remove_it_alone(client, register, alice, stored):
    register(alice, **phone())
    (own,) = client.get(URL, headers=alice.headers).json["tokens"]
    assert own["token"] == {"apn": APNS_TOKEN}
    answer = client.delete(URL, json={"token": VOIP_TOKEN.upper()}, headers=alice.headers)
    assert answer.status_code == 200
    assert stored() == APN
    register(alice, **phone())
    assert client.delete(URL, json={"token": APNS_TOKEN}, headers=alice.headers).status_code == 200
    assert stored() == {}


def test_senders_see_it_where_they_ask_for_it(call, register, alice):
    register(alice, **phone())
    for path, asked in ((LOOKUP, {"userIds": ["alice"]}), (LIST, {})):
        (one,) = call(path, asked).json["tokens"]
        assert one["token"] == {"apn": APNS_TOKEN}
        (one,) = call(path, {**asked, "type": "voip"}).json["tokens"]
        assert (one["token"], one["_id"]) == ({"voip": VOIP_TOKEN}, "iphone")
        assert call(path, {**asked, "type": "gcm"}).json["tokens"] == []


def test_verdicts_end_it_with_the_other_or_alone(call, register, alice, stored):
    def report(provider: str, value: str) -> tuple[int, ...]:
        sent_at = iso(datetime.now(UTC) + timedelta(seconds=1))
        verdict = {"appName": "chat.example", "value": value, "provider": provider}
        verdict |= {"status": 410, "sentAt": sent_at}
        answer = call("/api/v1/push.tokens.feedback", {"results": [verdict]}).json
        return answer["removed"], answer["unknown"]

    register(alice, **phone())
    assert report("apn", VOIP_TOKEN) == (0, 1)
    assert report("voip", APNS_TOKEN) == (0, 1)
    assert report("voip", VOIP_TOKEN.upper()) == (1, 0)
    assert stored() == APN
    register(alice, **phone())
    assert report("apns", VOIP_TOKEN) == (1, 0)
    assert stored() == APN
    register(alice, **phone())
    assert report("apns", APNS_TOKEN) == (1, 0)
    assert stored() == {}


def test_it_goes_with_the_session_of_the_other(client, register, alice, stored, database):
    """Registered without a device's name in a later session, the two hang on different ones."""
    register(alice, **phone())
    again = database.sign_in("alice")
    register(again, type="apn", value=APNS_TOKEN)
    client.post("/api/v1/logout", headers=again.headers)
    assert stored() == {}


def test_a_purge_takes_it_along(runner, register, alice, stored, database):
    register(alice, **phone())
    database.execute(
        "UPDATE push_tokens SET updated_at = now() - interval '300 days' WHERE type = 'apn'"
    )
    done = runner.invoke(args=["push-tokens", "purge", "--unseen-days", "270"])
    assert done.exit_code == 0, done.output
    assert stored() == {}


@pytest.mark.parametrize("way", ["purge", "logout"])
def test_that_of_another_device_stays(client, runner, register, alice, stored, database, way):
    """Each of these comes next to what goes, in one or the other column of the index."""
    for number, changes in enumerate([{"id": "iphone2"}, {"appName": "z"}, {"type": "gcm"}]):
        values = {"value": f"a{number}", "voipToken": f"v{number}"}
        register(database.sign_in("alice"), **phone(**values, **changes))
    register(database.sign_in("alicf"), **phone(value="a4", voipToken="v4"))
    register(alice, **phone(id="iphone0", voipToken=None))
    if way == "logout":
        assert client.post("/api/v1/logout", headers=alice.headers).status_code == 200
    else:
        old = "UPDATE push_tokens SET updated_at = '2020-01-01' WHERE device_id = 'iphone0'"
        database.execute(old)
        done = runner.invoke(args=["push-tokens", "purge", "--unseen-days", "270"])
        assert done.exit_code == 0, done.output
    assert {token for _, token in stored()["voip"]} == {"v0", "v1", "v4"}
    assert APNS_TOKEN not in {token for _, token in stored()["apn"]}
