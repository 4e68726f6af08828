"""What the services that send call."""

import base64
import hashlib
import http.client
import json
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event

from app.api.bodies import CutShortError
from app.models import db
from app.registry import push_tokens, sessions
from tests.support.answers import refused
from tests.support.factories import iso
from tests.support.filled import register_many
from tests.support.statements import count_statements

LOOKUP = "/api/v1/push.tokens.lookup"
LIST = "/api/v1/push.tokens.list"
FEEDBACK = "/api/v1/push.tokens.feedback"
PUT = "/api/v1/sessions.put"
REVOKE = "/api/v1/sessions.revoke"
SCOPE_OF = {
    LOOKUP: "lookup",
    LIST: "lookup",
    FEEDBACK: "feedback",
    PUT: "sessions",
    REVOKE: "sessions",
}
URL = "/api/v1/push.token"


class TestKeys:
    @pytest.mark.parametrize("path", SCOPE_OF)
    def test_each_call_wants_its_scope(self, client, issue, path):
        others = {"lookup", "feedback", "sessions"} - {SCOPE_OF[path]}
        answer = client.post(path, json={}, headers=issue(*others))
        assert (answer.status_code, answer.json) == (
            403,
            {"success": False, "error": "unauthorized"},
        )
        answer = client.post(path, json=[], headers=issue(SCOPE_OF[path]))
        assert answer.status_code == 400

    @pytest.mark.parametrize("path", SCOPE_OF)
    @pytest.mark.parametrize(
        "header", [None, "", "Bearer", "Bearer wrong", "Basic x", "Bearer \xff"]
    )
    def test_a_missing_or_wrong_key_is_401_before_anything_else(self, client, path, header):
        headers = {} if header is None else {"Authorization": header}
        answer = client.post(path, data=b"{", headers=headers)
        assert answer.status_code == 401
        assert answer.json == {
            "status": "error",
            "message": "You must be logged in to do this.",
        }

    def test_a_session_is_no_key_and_a_key_no_session(self, client, alice, issue):
        assert client.post(LOOKUP, json={}, headers=alice.headers).status_code == 401
        assert client.get(URL, headers=issue("lookup")).status_code == 401

    @pytest.mark.parametrize("byte", ["\xa0", "\x85", "\x1c"])
    def test_a_key_with_a_byte_more_is_another_key(self, client, issue, byte):
        """Also one that Unicode counts as a space; HTTP's are the blank and the tab."""
        right = issue("lookup")["Authorization"]
        for header, status in ((f"{right}{byte}", 401), (f"{right} \t", 400)):
            answer = client.post(LOOKUP, json={}, headers={"Authorization": header})
            assert answer.status_code == status

    def test_rotation_without_downtime(self, client, issue, issuer):
        old, new = issue("lookup"), issue("lookup")
        for headers in (old, new):
            assert client.post(LOOKUP, json={}, headers=headers).status_code == 400
        result = issuer.invoke(args=["service-keys", "revoke", "sender", "--keep-latest"])
        assert json.loads(result.stdout) == {"name": "sender", "revoked": 1}
        assert client.post(LOOKUP, json={}, headers=old).status_code == 401
        assert client.post(LOOKUP, json={}, headers=new).status_code == 400
        issuer.invoke(args=["service-keys", "revoke", "sender"])
        assert client.post(LOOKUP, json={}, headers=new).status_code == 401
        again = issuer.invoke(args=["service-keys", "revoke", "sender"])
        assert (again.exit_code, json.loads(again.stdout)["revoked"]) == (1, 0)
        assert "No live key bears the name 'sender'." in again.stderr

    def test_one_key_of_a_name_is_revoked_by_its_id(self, client, issue, issuer):
        leaked, other = issue("lookup"), issue("lookup")
        key = leaked["Authorization"].removeprefix("Bearer ")
        key_id = hashlib.sha256(key.encode()).hexdigest()[:8]
        revoke = ["service-keys", "revoke", "sender", "--key-id"]
        for id_ in ("00000000", ""):  # "" is a variable of a script that was not set
            wrong = issuer.invoke(args=[*revoke, id_])
            assert (wrong.exit_code, json.loads(wrong.stdout)["revoked"]) == (1, 0)
            assert f"No live key bears the name 'sender' and the id {id_!r}." in wrong.stderr
        assert json.loads(issuer.invoke(args=[*revoke, key_id]).stdout)["revoked"] == 1
        assert client.post(LOOKUP, json={}, headers=leaked).status_code == 401
        assert client.post(LOOKUP, json={}, headers=other).status_code == 400
        both = issuer.invoke(args=[*revoke, key_id, "--keep-latest"])
        assert both.exit_code == 2
        assert "either --keep-latest or --key-id" in both.stderr

    def test_a_revoked_key_is_good_for_nothing_in_every_worker(self, live, issue, issuer):
        def statuses() -> set[int]:
            """Return the answers to as many connections as meet both workers."""
            found = set()
            for _ in range(40):
                client = http.client.HTTPConnection("127.0.0.1", live.port)
                client.request("POST", LOOKUP, b"{}", headers)
                found.add(client.getresponse().status)
                client.close()
            return found

        headers = {**issue("lookup"), "Content-Type": "application/json"}
        assert statuses() == {400}
        issuer.invoke(args=["service-keys", "revoke", "sender"])
        assert statuses() == {401}

    def test_the_list_shows_no_key(self, issue, issuer, database):
        key = issue("feedback", "lookup", name="ünï")["Authorization"].removeprefix("Bearer ")
        line = issuer.invoke(args=["service-keys", "list"]).stdout
        shown = json.loads(line)
        assert (shown["name"], shown["scopes"]) == ("ünï", ["feedback", "lookup"])
        assert shown["revokedAt"] is None
        assert len(shown["keyId"]) == 8
        assert key not in line
        (row,) = database.rows("SELECT * FROM service_keys")
        assert row["key_hash"] == hashlib.sha256(key.encode()).digest()

    @pytest.mark.parametrize(
        "arguments", [["issue", "x"], ["issue", "x", "--scope", "root"], ["issue", ""], ["revoke"]]
    )
    def test_what_cannot_be_meant_makes_nothing(self, issuer, database, arguments):
        assert issuer.invoke(args=["service-keys", *arguments]).exit_code == 2
        assert database.rows("SELECT 1 FROM service_keys") == []


class TestBodies:
    @pytest.mark.parametrize("path", SCOPE_OF)
    @pytest.mark.parametrize(
        ("data", "content_type", "status"),
        [
            (b"{}", "text/plain", 415),
            (b"a=b", "application/x-www-form-urlencoded", 415),
            (b"", "", 415),
            (b"", "application/json", 400),
            (b"{", "application/json", 400),
            (b"[]", "application/json", 400),
            (b'"\xff"', "application/json", 400),
            (b'{"userId":"\\ud800"}', "application/json", 400),
        ],
    )
    def test_what_is_no_json_object_is_refused(
        self, client, issue, path, data, content_type, status
    ):
        headers = issue(SCOPE_OF[path])
        answer = client.post(path, data=data, content_type=content_type, headers=headers)
        assert answer.status_code == status
        assert answer.json["success"] is False
        if status == 400:
            refused(answer, "")

    def test_a_thousand_long_verdicts_fit(self, call):
        verdict = {"appName": "ü" * 127, "value": "\x01" * 2048, "provider": "fcm", "status": 404}
        verdicts = [{**verdict, "sentAt": iso(datetime.now(UTC))}] * 1000
        answer = call(FEEDBACK, {"results": verdicts})
        assert answer.json == {"removed": 0, "kept": 0, "unknown": 1000, "success": True}

    def test_a_body_beyond_that_is_413(self, call):
        assert call(FEEDBACK, {"x": "x" * 17_000_000}).status_code == 413


class TestLookup:
    def test_finds_users_ordered_by_user_and_id(self, call, register, database):
        for user_id in ("b", "a", "B", "c"):
            caller = database.sign_in(user_id)
            register(caller, value=f"of {user_id}2", id=f"2{user_id}")
            register(caller, value=f"of {user_id}1", id=f"1{user_id}", type="apn")
        answer = call(LOOKUP, {"userIds": ["a", "b", "B", "nobody", "a"]})
        assert answer.status_code == 200
        assert list(answer.json) == ["tokens", "success"]
        assert [row["_id"] for row in answer.json["tokens"]] == [
            "1B",
            "2B",
            "1a",
            "2a",
            "1b",
            "2b",
        ]
        assert list(answer.json["tokens"][0]) == [
            *("token", "appName", "userId", "enabled", "createdAt", "updatedAt", "_id")
        ]

    def test_filters_by_app_and_type(self, call, register, alice):
        register(alice, value="1", appName="one")
        register(alice, value="2", appName="two")
        register(alice, value="3", appName="two", type="apn")
        found = call(LOOKUP, {"userIds": ["alice"], "appName": "two", "type": "gcm"})
        assert [row["token"] for row in found.json["tokens"]] == [{"gcm": "2"}]

    def test_leaves_out_disabled_and_who_is_not_signed_in(self, call, register, database):
        expired, holder, disabled = (database.sign_in(name) for name in ("e", "h", "d"))
        for caller in (expired, holder, disabled):
            register(caller, value=caller.user_id)
        database.execute("UPDATE push_tokens SET enabled = false WHERE user_id = 'd'")
        database.execute("UPDATE user_sessions SET expires_at = now() WHERE user_id = 'e'")
        database.execute(
            "UPDATE user_sessions SET can_sign_in = false, expires_at = NULL WHERE user_id = 'h'"
        )
        assert call(LOOKUP, {"userIds": ["e", "h", "d"]}).json["tokens"] == []

    def test_holds_the_100_latest_renewed_of_a_user_of_the_kind_asked_for(self, call, database):
        crowd(database, users=2, each=250)
        database.execute("UPDATE push_tokens SET type = 'apn' WHERE id LIKE '%%7'")
        found = call(LOOKUP, {"userIds": ["u1", "u0"]}).json["tokens"]
        latest = [f"u{user} {n:03}" for user in (0, 1) for n in range(150, 250)]
        assert [row["_id"] for row in found] == latest
        found = call(LOOKUP, {"userIds": ["u0"], "type": "apn"}).json["tokens"]
        assert [row["_id"] for row in found] == [f"u0 {n:03}" for n in range(7, 250, 10)]

    def test_the_100_latest_are_of_live_sessions(self, call, database):
        crowd(database, users=1, each=150)
        ended = database.sign_in("u0", expires="-1 day")
        database.execute(
            "UPDATE push_tokens SET session_hash = %s WHERE id >= 'u0 120'", ended.token_hash
        )
        found = call(LOOKUP, {"userIds": ["u0"]}).json["tokens"]
        assert [row["_id"] for row in found] == [f"u0 {n:03}" for n in range(20, 120)]

    @pytest.mark.parametrize("users", [50, 51, 151])
    def test_a_long_answer_is_whole_and_in_order(self, call, database, users):
        crowd(database, users, each=101)
        answer = call(LOOKUP, {"userIds": [f"u{n}" for n in range(users)], "type": "gcm"})
        assert answer.status_code == 200
        assert answer.content_type == "application/json"
        assert list(answer.json) == ["tokens", "success"]
        assert answer.json["success"] is True
        found = [(row["userId"], row["_id"]) for row in answer.json["tokens"]]
        assert found == sorted(
            (f"u{u}", f"u{u} {n:03}") for u in range(users) for n in range(1, 101)
        )
        # What is written out in parts has no length.
        assert ("Content-Length" in answer.headers) == (users == 50)

    def test_users_without_any_come_first_in_a_long_answer(self, call, database):
        crowd(database, users=60, each=100)
        user_ids = [f"a{n}" for n in range(80)] + [f"u{n}" for n in range(60)]
        assert len(call(LOOKUP, {"userIds": user_ids}).json["tokens"]) == 6000

    def test_a_long_answer_that_fails_half_way_is_cut_short(
        self, call, database, monkeypatch, caplog
    ):
        crowd(database, users=101, each=100)
        look_up, asked = push_tokens.look_up, []

        def fail_later(user_ids, **wanted):
            asked.append(user_ids)
            if len(asked) > 3:
                raise RuntimeError("half-way")
            return look_up(user_ids, **wanted)

        monkeypatch.setattr(push_tokens, "look_up", fail_later)
        answer = call(LOOKUP, {"userIds": [f"u{n}" for n in range(101)]})
        with pytest.raises(CutShortError):
            answer.get_data()
        assert list(map(len, asked)) == [101, 10, 10, 10]
        (line,) = [one for one in caplog.records if one.name == "app.api.errors"]
        assert (line.error_type, line.reason) == ("cut-short", "RuntimeError")
        assert "fail_later" in line.trace
        assert "half-way" not in line.trace.replace('RuntimeError("half-way")', "")

    @pytest.mark.parametrize(
        ("fields", "problem"),
        [
            ({}, "userIds: "),
            ({"userIds": None}, "userIds: "),
            ({"userIds": []}, "userIds: Must have 1 to 1000 elements."),
            ({"userIds": ["x"] * 1001}, "userIds: Must have 1 to 1000 elements."),
            ({"userIds": "alice"}, "userIds: "),
            ({"userIds": ["a", 5]}, "userIds.1: Must be a string of 1 to 255 bytes"),
            ({"userIds": ["a", "x" * 256]}, "userIds.1: "),
            ({"userIds": ["a", "\0"]}, "userIds.1: "),
            ({"userIds": ["a"], "type": "fcm"}, "type: "),
            ({"userIds": ["a"], "type": ["gcm"]}, "type: "),
            ({"userIds": ["a"], "appName": ""}, "appName: "),
        ],
    )
    def test_names_what_is_wrong(self, call, fields, problem):
        refused(call(LOOKUP, fields), problem)

    def test_a_thousand_users_are_few_statements(self, call, database, monkeypatch):
        register_many(database, 3000)
        users = {"userIds": [f"u{n}" for n in range(1000)]}
        call(LOOKUP, users)
        statements = count_statements(monkeypatch)
        answer = call(LOOKUP, users)
        assert len(answer.json["tokens"]) == 1000
        assert len(statements) <= 3, statements


class TestList:
    def pages(self, call, **fields):
        cursor, pages = None, []
        while True:
            page = call(LIST, {**fields, "cursor": cursor}).json
            assert list(page) == ["tokens", "cursor", "success"]
            pages.append([row["_id"] for row in page["tokens"]])
            if (cursor := page["cursor"]) is None:
                return pages

    def test_visits_every_row_once(self, call, database):
        register_many(database, 2500)
        pages = self.pages(call, count=300)
        visited = [row_id for page in pages for row_id in page]
        assert sorted(visited) == sorted(f"id{n:06}" for n in range(2500))
        assert max(map(len, pages)) == 300

    def test_visits_every_row_that_stays_once_while_others_come_and_go(self, call, database):
        register_many(database, 2500)
        stays = {f"id{n:06}" for n in range(2500) if n % 3}
        cursor, visited, number = None, [], 0
        while True:
            page = call(LIST, {"count": 100, "cursor": cursor}).json
            visited += [row["_id"] for row in page["tokens"]]
            if (cursor := page["cursor"]) is None:
                break
            number += 1
            database.execute("DELETE FROM push_tokens WHERE id = %s", f"id{number * 99:06}")
            database.execute(
                "UPDATE push_tokens SET updated_at = now() WHERE id = %s", f"id{number * 70:06}"
            )
            database.execute(
                "INSERT INTO push_tokens"
                " (id, device_id, app_name, token, type, user_id, session_hash)"
                " SELECT %s, %s, 'new', %s, 'gcm', user_id, token_hash"
                " FROM user_sessions LIMIT 1",
                *[f"id{number * 50:06}x"] * 2,
                f"new{number}",
            )
        assert len(visited) == len(set(visited))
        assert stays - {f"id{n * 99:06}" for n in range(30)} <= set(visited)

    def test_a_rare_filter_gives_short_pages_and_a_cursor(self, call, database):
        register_many(database, 2500)
        database.execute("UPDATE push_tokens SET app_name = 'rare' WHERE id = 'id002400'")
        pages = self.pages(call, appName="rare")
        assert [row for page in pages for row in page] == ["id002400"]
        assert len(pages) == 3

    def test_filters_by_time_and_type(self, call, register, alice, database):
        register(alice, value="old", type="apn")
        database.execute("UPDATE push_tokens SET updated_at = now() - interval '1 day'")
        register(alice, value="new", type="apn")
        register(alice, value="other")
        since = iso(datetime.now(UTC) - timedelta(hours=1))
        found = call(LIST, {"updatedSince": since, "type": "apn"}).json["tokens"]
        assert [row["token"] for row in found] == [{"apn": "new"}]

    def test_live_sessions_only(self, call, register, database):
        register(database.sign_in("gone"))
        database.execute("UPDATE user_sessions SET expires_at = now()")
        assert call(LIST, {}).json == {"tokens": [], "cursor": None, "success": True}

    @pytest.mark.parametrize(
        ("fields", "problem"),
        [
            ({"count": 0}, "count: "),
            ({"count": 1001}, "count: "),
            ({"count": "10"}, "count: "),
            ({"count": 1.5}, "count: "),
            ({"updatedSince": "yesterday"}, "updatedSince: "),
            ({"updatedSince": "2026-01-01T00:00:00"}, "updatedSince: "),
            ({"updatedSince": 5}, "updatedSince: "),
            ({"updatedSince": "0001-01-01T00:00:00+23:00"}, "updatedSince: "),
            ({"cursor": "made up"}, "cursor: "),
            ({"cursor": ""}, "cursor: "),
            ({"cursor": 5}, "cursor: "),
            ({"cursor": base64.b64encode(b"id1").decode()}, "cursor: "),
            ({"cursor": base64.b64encode(b"after:\0").decode()}, "cursor: "),
            ({"cursor": base64.b64encode(b"after:\xff").decode()}, "cursor: "),
        ],
    )
    def test_names_what_is_wrong(self, call, fields, problem):
        refused(call(LIST, fields), problem)


def crowd(database, users: int, each: int) -> None:
    """Put as many registrations of each user in; the later their id, the later renewed."""
    database.execute(
        "INSERT INTO user_sessions (token_hash, user_id)"
        f" SELECT sha256(u::text::bytea), 'u' || u FROM generate_series(0, {users - 1}) u"
    )
    database.execute(
        "INSERT INTO push_tokens"
        " (id, device_id, app_name, token, type, user_id, session_hash, updated_at)"
        " SELECT d, d, 'app', 'token' || u || ' ' || n, 'gcm', 'u' || u, sha256(u::text::bytea),"
        " now() - (1000 - n) * interval '1 second'"
        f" FROM generate_series(0, {users - 1}) u, generate_series(0, {each - 1}) n,"
        " LATERAL (SELECT 'u' || u || ' ' || lpad(n::text, 3, '0') AS d) named"
    )


class TestPlans:
    """100,000 rows: every statement of these calls finds its rows by index."""

    def test_no_statement_reads_the_whole_table(self, call, database, app, caplog):
        # As long as FCM's: short ones fill few pages, which PostgreSQL rightly reads.
        end = "x" * 150
        register_many(database, 100_000, end)
        plans = []
        with app.app_context():
            engine = db.engine

        def explain(connection, cursor, statement, parameters, context, many):
            if "push_tokens" in statement and not statement.startswith("EXPLAIN"):
                cursor.execute("EXPLAIN " + statement, parameters)
                plans.append("\n".join(row[0] for row in cursor.fetchall()))

        event.listen(engine, "before_cursor_execute", explain)
        try:
            now = iso(datetime.now(UTC))
            verdict = {"appName": "app", "provider": "fcm", "status": 404, "sentAt": now}
            verdict["error"] = "UNREGISTERED"
            verdicts = [{**verdict, "value": f"token{n}{end}"} for n in range(1000)]
            assert call(LOOKUP, {"userIds": [f"u{n}" for n in range(1000)]}).status_code == 200
            assert call(LIST, {"cursor": base64.b64encode(b"after:id050000").decode()}).json[
                "tokens"
            ]
            assert call(FEEDBACK, {"results": verdicts}).json["removed"] == 1000
            assert call(REVOKE, {"userId": "u5000"}).json["tokens"] == 1
        finally:
            event.remove(engine, "before_cursor_execute", explain)
        assert len(plans) >= 5
        for plan in plans:
            assert "Seq Scan on push_tokens" not in plan, plan
            assert "Index" in plan, plan


@pytest.mark.parametrize(("count", "status"), [(7.0, 200), (7.5, 400), ("7", 400), (True, 400)])
def test_a_number_is_whole_however_it_is_written(call, count, status):
    assert call("/api/v1/push.tokens.list", {"count": count}).status_code == status


def test_however_many_are_registered_in_a_session_all_go_with_it(
    call, alice, bob, register, database, monkeypatch
):
    monkeypatch.setattr(sessions, "AT_ONCE", 2)
    for count in (0, 1, 2, 3, 4, 5):
        caller = database.sign_in("carol")
        for n in range(count):
            register(caller, value=f"t{n}")
        register(bob, value="his")
        answer = call(REVOKE, {"userId": "carol"})
        assert (answer.json["sessions"], answer.json["tokens"]) == (1, count)
    assert [row["user_id"] for row in database.push_tokens()] == ["bob"]


@pytest.mark.parametrize("wrong", ["x", 5, None, []])
def test_what_is_no_object_in_a_list_is_named_by_its_place(call, wrong):
    refused(call(PUT, {"sessions": [wrong]}), "sessions.0: ")
