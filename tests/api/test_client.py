"""What apps call, every row of the contract, in exact bytes where it says so."""

import json

import pytest

from tests.support.answers import missing_or_invalid
from tests.support.factories import APNS_TOKEN, FCM_TOKEN, Caller, Database, body

URL = "/api/v1/push.token"

UNAUTHORIZED = {"status": "error", "message": "You must be logged in to do this."}


TYPE_ERROR = missing_or_invalid("type", "error-type-param-not-valid")
VALUE_ERROR = missing_or_invalid("value", "error-token-param-not-valid")
TOKEN_ERROR = missing_or_invalid("token", "error-token-param-not-valid")
APP_NAME_ERROR = missing_or_invalid("appName", "error-appName-param-not-valid")
ID_ERROR = {
    "success": False,
    "error": 'The required "id" body param is invalid. [error-id-param-not-valid]',
    "errorType": "error-id-param-not-valid",
}


class TestRegister:
    def test_answers_with_the_documented_body_key_by_key(self, client, alice, database):
        answer = client.post(URL, json=body(), headers=alice.headers)
        assert answer.status_code == 200
        assert answer.content_type == "application/json"
        (row,) = database.push_tokens()
        moment = row["created_at"].isoformat(timespec="milliseconds").replace("+00:00", "Z")
        assert answer.text == (
            f'{{"result":{{"token":{{"gcm":"{FCM_TOKEN}"}},"appName":"chat.example",'
            f'"userId":"alice","enabled":true,"createdAt":"{moment}","updatedAt":"{moment}",'
            f'"_id":"{row["device_id"]}"}},"success":true}}'
        )

    def test_stores_who_and_under_which_session(self, client, alice, database):
        client.post(URL, json=body(), headers=alice.headers)
        (row,) = database.push_tokens()
        assert row["user_id"] == "alice"
        assert row["session_hash"] == alice.token_hash
        assert (row["app_name"], row["token"], row["type"]) == ("chat.example", FCM_TOKEN, "gcm")

    def test_makes_ids_of_17_unmistakable_characters(self, client, alice):
        made = client.post(URL, json=body(), headers=alice.headers).json["result"]["_id"]
        assert len(made) == 17
        assert set(made) <= set("23456789ABCDEFGHJKLMNPQRSTWXYZabcdefghijkmnopqrstuvwxyz")

    @pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=x"])
    def test_takes_json(self, client, alice, content_type):
        answer = client.post(
            URL, data=json.dumps(body()), content_type=content_type, headers=alice.headers
        )
        assert answer.status_code == 200

    def test_takes_a_form(self, client, alice):
        answer = client.post(URL, data=body(value="a b+ü"), headers=alice.headers)
        assert answer.json["result"]["token"] == {"gcm": "a b+ü"}

    def test_ignores_unknown_fields(self, client, alice):
        answer = client.post(URL, json=body(voipToken="x", payload={}), headers=alice.headers)
        assert answer.status_code == 200

    @pytest.mark.parametrize("absent", ["", None, 0, False, 0.0])
    def test_counts_what_javascript_calls_falsy_as_no_id(self, client, alice, absent):
        answer = client.post(URL, json=body(id=absent), headers=alice.headers)
        assert len(answer.json["result"]["_id"]) == 17

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"id": 1}, ID_ERROR),
            ({"id": True}, ID_ERROR),
            ({"id": []}, ID_ERROR),
            ({"id": {}}, ID_ERROR),
            ({"id": "x" * 65}, ID_ERROR),
            ({"id": "ü" * 33}, ID_ERROR),
            ({"id": "a\0"}, ID_ERROR),
            ({"id": "\ud800"}, ID_ERROR),
            ({"type": None}, TYPE_ERROR),
            ({"type": "fcm"}, TYPE_ERROR),
            ({"type": "GCM"}, TYPE_ERROR),
            ({"type": ["gcm"]}, TYPE_ERROR),
            ({"type": {}}, TYPE_ERROR),
            ({"value": None}, VALUE_ERROR),
            ({"value": ""}, VALUE_ERROR),
            ({"value": 5}, VALUE_ERROR),
            ({"value": ["x"]}, VALUE_ERROR),
            ({"value": "x" * 2049}, VALUE_ERROR),
            ({"value": "ü" * 1025}, VALUE_ERROR),
            ({"value": "a\0b"}, VALUE_ERROR),
            ({"value": "\udfff"}, VALUE_ERROR),
            ({"appName": None}, APP_NAME_ERROR),
            ({"appName": ""}, APP_NAME_ERROR),
            ({"appName": {"a": 1}}, APP_NAME_ERROR),
            ({"appName": "x" * 256}, APP_NAME_ERROR),
            ({"appName": "\0"}, APP_NAME_ERROR),
            ({"id": 1, "type": 1, "value": 1, "appName": 1}, ID_ERROR),
            ({"type": 1, "value": 1, "appName": 1}, TYPE_ERROR),
            ({"value": 1, "appName": 1}, VALUE_ERROR),
        ],
    )
    def test_names_the_first_field_that_is_wrong(self, client, alice, database, changes, expected):
        data = json.dumps(body(**changes))  # not the app's JSON: it refuses lone surrogates
        answer = client.post(
            URL, data=data, content_type="application/json", headers=alice.headers
        )
        assert (answer.status_code, answer.json) == (400, expected)
        assert list(answer.json) == ["success", "error", "errorType"]
        assert database.push_tokens() == []

    @pytest.mark.parametrize("missing", ["type", "value", "appName"])
    def test_names_a_field_that_is_missing(self, client, alice, missing):
        fields = body()
        del fields[missing]
        answer = client.post(URL, json=fields, headers=alice.headers)
        expected = {"type": TYPE_ERROR, "value": VALUE_ERROR, "appName": APP_NAME_ERROR}
        assert (answer.status_code, answer.json) == (400, expected[missing])

    @pytest.mark.parametrize(
        ("data", "content_type"),
        [
            (b"", "application/json"),
            (b"{", "application/json"),
            (b"[1]", "application/json"),
            (b'"text"', "application/json"),
            (b"null", "application/json"),
            (b'{"type":"gcm","value":"v","appName":"a","id":NaN}', "application/json"),
            (b"\xff\xfe", "application/json"),
            (b"[" * 60000, "application/json"),
            (b"%ff=%ff&type=%ff", "application/x-www-form-urlencoded"),
            (b"type=gcm&value=v&appName=a" + b"&x=1" * 98, "application/x-www-form-urlencoded"),
            (json.dumps(body()).encode(), "text/plain"),
            (json.dumps(body()).encode(), "application/vnd.api+json"),
            (json.dumps(body()).encode(), "multipart/form-data; boundary=x"),
            (json.dumps(body()).encode(), ""),
        ],
    )
    def test_counts_what_it_cannot_read_as_an_empty_body(self, client, alice, data, content_type):
        answer = client.post(URL, data=data, content_type=content_type, headers=alice.headers)
        assert (answer.status_code, answer.json) == (400, TYPE_ERROR)

    @pytest.mark.parametrize("text", ["x" * 2048, "ü" * 1024, "字" * 682, "😀" * 512])
    def test_takes_a_value_at_its_limit_in_every_script(self, client, alice, text):
        answer = client.post(URL, json=body(value=text), headers=alice.headers)
        assert answer.json["result"]["token"] == {"gcm": text}

    def test_refuses_a_large_body(self, client, alice):
        answer = client.post(URL, json=body(extra="x" * 70000), headers=alice.headers)
        assert answer.status_code == 413
        assert answer.json["success"] is False


class TestRemove:
    @pytest.fixture(autouse=True)
    def _registered(self, client, alice, bob):
        client.post(URL, json=body(value="mine", appName="one"), headers=alice.headers)
        client.post(URL, json=body(value="mine", appName="two"), headers=alice.headers)
        client.post(URL, json=body(value="theirs"), headers=bob.headers)

    def test_removes_the_value_in_every_app_and_then_finds_nothing(self, client, alice, database):
        answer = client.delete(URL, json={"token": "mine"}, headers=alice.headers)
        assert (answer.status_code, answer.text) == (200, '{"success":true}')
        assert [row["token"] for row in database.push_tokens()] == ["theirs"]
        again = client.delete(URL, json={"token": "mine"}, headers=alice.headers)
        assert again.status_code == 404
        assert again.text == '{"success":false,"error":"Resource not found"}'

    def test_takes_the_query_where_the_body_was_stripped(self, client, alice, database):
        answer = client.delete(f"{URL}?token=mine", headers=alice.headers)
        assert answer.status_code == 200
        assert len(database.push_tokens()) == 1

    def test_lets_a_body_win_over_the_query(self, client, alice):
        answer = client.delete(f"{URL}?token=mine", json={"token": "x"}, headers=alice.headers)
        assert answer.status_code == 404

    def test_leaves_what_is_somebody_elses(self, client, alice, database):
        answer = client.delete(URL, json={"token": "theirs"}, headers=alice.headers)
        assert answer.status_code == 404
        assert len(database.push_tokens()) == 3

    def test_finds_an_apns_value_in_either_case(self, client, alice):
        client.post(URL, json=body(type="apn", value=APNS_TOKEN), headers=alice.headers)
        answer = client.delete(URL, json={"token": APNS_TOKEN.upper()}, headers=alice.headers)
        assert answer.status_code == 200

    @pytest.mark.parametrize("value", [None, "", 1, ["mine"], "x" * 2049, "\0"])
    def test_refuses_a_value_that_cannot_be_one(self, client, alice, database, value):
        answer = client.delete(URL, json={"token": value}, headers=alice.headers)
        assert (answer.status_code, answer.json) == (400, TOKEN_ERROR)
        assert len(database.push_tokens()) == 3

    def test_refuses_a_missing_value(self, client, alice):
        assert client.delete(URL, headers=alice.headers).json == TOKEN_ERROR


class TestList:
    def test_lists_the_callers_own_with_the_latest_first(self, client, alice, bob, database):
        for name in ("old", "middle", "new"):
            client.post(URL, json=body(value=name), headers=alice.headers)
            database.execute("UPDATE push_tokens SET updated_at = updated_at - interval '1 min'")
        client.post(URL, json=body(value="theirs"), headers=bob.headers)
        answer = client.get(URL, headers=alice.headers)
        assert answer.status_code == 200
        assert list(answer.json) == ["tokens", "success"]
        assert [t["token"]["gcm"] for t in answer.json["tokens"]] == ["new", "middle", "old"]
        assert list(answer.json["tokens"][0]) == [
            *("token", "appName", "userId", "enabled", "createdAt", "updatedAt", "_id")
        ]

    def test_lists_the_100_latest_renewed(self, client, alice, database):
        database.execute(
            "INSERT INTO push_tokens (id, device_id, app_name, token, type, user_id, session_hash,"
            " updated_at) SELECT n, n, 'app', n, 'gcm', 'alice', %s, now() - n * interval '1 s'"
            " FROM generate_series(1, 150) n",
            alice.token_hash,
        )
        listed = client.get(URL, headers=alice.headers).json["tokens"]
        assert [row["_id"] for row in listed] == [str(n) for n in range(1, 101)]

    def test_lists_nothing_for_who_has_nothing(self, client, alice):
        assert client.get(URL, headers=alice.headers).text == '{"tokens":[],"success":true}'


class TestLogout:
    URL = "/api/v1/logout"

    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_ends_the_session_and_its_registrations_only(self, client, alice, database, method):
        elsewhere = database.sign_in("alice")
        client.post(URL, json=body(value="here"), headers=alice.headers)
        client.post(URL, json=body(value="there"), headers=elsewhere.headers)
        answer = client.open(self.URL, method=method, headers=alice.headers)
        assert answer.status_code == 200
        assert answer.text == (
            '{"status":"success","data":{"message":"You\'ve been logged out!"}}'
        )
        assert [row["token"] for row in database.push_tokens()] == ["there"]
        assert client.get(URL, headers=alice.headers).status_code == 401
        assert client.get(URL, headers=elsewhere.headers).status_code == 200


class TestLogoutElsewhere:
    URL = "/api/v1/users.removeOtherTokens"

    def test_ends_all_other_sessions_of_the_user_only(
        self, client, alice, bob, database, register
    ):
        others = [database.sign_in("alice"), database.sign_in("alice", can_sign_in=False)]
        for name, caller in {"here": alice, "there": others[0], "bob's": bob}.items():
            register(caller, value=name)
        answer = client.post(self.URL, headers=alice.headers)
        assert (answer.status_code, answer.text) == (200, '{"success":true}')
        assert [row["token"] for row in database.push_tokens()] == ["bob's", "here"]
        left = {row["token_hash"] for row in database.rows("SELECT token_hash FROM user_sessions")}
        assert left == {alice.token_hash, bob.token_hash}

    def test_is_done_again_where_there_are_no_others(self, client, alice, register):
        register(alice)
        for _ in range(2):
            assert client.post(self.URL, headers=alice.headers).json == {"success": True}
        assert len(client.get(URL, headers=alice.headers).json["tokens"]) == 1


CALLS = [
    *(("POST", URL), ("DELETE", URL), ("GET", URL)),
    *(("POST", "/api/v1/logout"), ("GET", "/api/v1/logout")),
    ("POST", "/api/v1/users.removeOtherTokens"),
]


@pytest.mark.parametrize(("method", "path"), CALLS)
class TestCredentials:
    def refused(self, client, method, path, headers, database: Database) -> None:
        sessions = database.rows("SELECT * FROM user_sessions ORDER BY token_hash")
        for fields in (body(), {}):  # a 401 hides every 400
            answer = client.open(path, method=method, json=fields, headers=headers)
            assert (answer.status_code, answer.json) == (401, UNAUTHORIZED)
            assert list(answer.json) == ["status", "message"]
        assert database.push_tokens() == []
        assert database.rows("SELECT * FROM user_sessions ORDER BY token_hash") == sessions

    def test_refuses_none(self, client, method, path, database):
        self.refused(client, method, path, {}, database)

    @pytest.mark.parametrize("header", ["X-Auth-Token", "X-User-Id"])
    @pytest.mark.parametrize("value", [None, "", "wrong", "\xff", "ü\0", "x" * 300])
    def test_refuses_either_header_missing_or_wrong(
        self, client, method, path, alice, header, value, database
    ):
        headers = dict(alice.headers)
        del headers[header]
        if value is not None:
            headers[header] = value
        self.refused(client, method, path, headers, database)

    def test_refuses_somebody_elses_token(self, client, method, path, alice, bob, database):
        mixed = Caller("bob", alice.auth_token)
        self.refused(client, method, path, mixed.headers, database)

    def test_refuses_an_expired_session(self, client, method, path, database):
        expired = database.sign_in("alice", expires="-1 second")
        self.refused(client, method, path, expired.headers, database)

    def test_refuses_a_session_that_only_holds_imported_rows(self, client, method, path, database):
        holder = database.sign_in("alice", expires=None, can_sign_in=False)
        self.refused(client, method, path, holder.headers, database)

    def test_takes_the_headers_in_any_case_and_a_session_without_end(
        self, client, method, path, database
    ):
        caller = database.sign_in("ünï", expires=None)
        headers = {
            "x-user-id": "ünï".encode().decode("latin-1"),
            "x-auth-token": caller.auth_token,
        }
        answer = client.open(path, method=method, json=body(token="x"), headers=headers)
        assert answer.status_code == (404 if method == "DELETE" else 200)
