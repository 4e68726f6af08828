"""Calls by which an identity provider announces and revokes sessions."""

import base64
import hashlib
import threading
from datetime import UTC, datetime

import psycopg
import pytest
from sqlalchemy import event

from app.models import db
from app.registry import sessions
from tests.support.answers import refused
from tests.support.factories import Caller, body

PUT = "/api/v1/sessions.put"
REVOKE = "/api/v1/sessions.revoke"
URL = "/api/v1/push.token"


def hashed(auth_token: str) -> str:
    return base64.b64encode(hashlib.sha256(auth_token.encode()).digest()).decode()


class TestSessionsPut:
    def test_the_user_is_signed_in_and_again_changes_nothing(self, call, client, database):
        session = {"userId": "carol", "hashedToken": hashed("secret")}
        for _ in range(2):
            answer = call(PUT, {"sessions": [session]})
            assert (answer.status_code, answer.text) == (200, '{"sessions":1,"success":true}')
        headers = {"X-User-Id": "carol", "X-Auth-Token": "secret"}
        assert client.post(URL, json=body(), headers=headers).status_code == 200
        (row,) = database.rows("SELECT expires_at - now() AS life FROM user_sessions")
        assert 89 <= row["life"].days <= 90

    def test_takes_an_end_none_and_another(self, call, database):
        def ends(**fields):
            session = {"userId": "carol", "hashedToken": hashed("secret"), **fields}
            assert call(PUT, {"sessions": [session]}).status_code == 200
            return database.rows("SELECT expires_at FROM user_sessions")[0]["expires_at"]

        assert ends(expiresAt="2030-01-02T03:04:05.678+02:00") == datetime(
            *(2030, 1, 2, 1, 4, 5, 678000), tzinfo=UTC
        )
        assert ends(expiresAt=None) is None

    def test_a_holder_of_imported_rows_becomes_a_sign_in(self, call, client, database):
        holder = database.sign_in("carol", expires=None, can_sign_in=False)
        assert client.get(URL, headers=holder.headers).status_code == 401
        session = {"userId": "carol", "hashedToken": hashed(holder.auth_token)}
        call(PUT, {"sessions": [session]})
        assert client.get(URL, headers=holder.headers).status_code == 200

    def test_who_only_held_imported_rows_of_the_session_holds_them_no_more(
        self, call, client, database
    ):
        """Rocket.Chat once left the former user in a row whose device had signed in anew."""
        holder = database.sign_in("former", expires=None, can_sign_in=False)
        database.execute(
            "INSERT INTO push_tokens"
            " (id, device_id, app_name, token, type, user_id, session_hash)"
            " VALUES ('i', 'i', 'main', 't', 'gcm', 'former', %s)",
            holder.token_hash,
        )
        session = {"userId": "carol", "hashedToken": hashed(holder.auth_token)}
        assert call(PUT, {"sessions": [session]}).status_code == 200
        assert database.push_tokens() == []
        headers = {**holder.headers, "X-User-Id": "carol"}
        assert client.get(URL, headers=headers).status_code == 200

    def test_a_hash_of_another_user_is_refused_and_nothing_is_done(self, call, alice, database):
        sessions = [
            {"userId": "carol", "hashedToken": hashed("new")},
            {"userId": "carol", "hashedToken": hashed(alice.auth_token)},
        ]
        refused(call(PUT, {"sessions": sessions}), "sessions.1.hashedToken: ")
        twice = [{"userId": user, "hashedToken": hashed("new")} for user in "ab"]
        refused(call(PUT, {"sessions": twice}), "sessions.1.hashedToken: ")
        assert [r["user_id"] for r in database.rows("SELECT * FROM user_sessions")] == ["alice"]

    def test_takes_a_thousand_and_the_same_one_twice(self, call, database):
        many = [{"userId": f"u{n}", "hashedToken": hashed(str(n))} for n in range(999)]
        assert call(PUT, {"sessions": [*many, many[0]]}).json["sessions"] == 1000
        assert len(database.rows("SELECT 1 FROM user_sessions")) == 999

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"userId": ""}, "sessions.0.userId: "),
            ({"userId": 5}, "sessions.0.userId: "),
            ({"hashedToken": "x"}, "sessions.0.hashedToken: "),
            ({"hashedToken": hashed("x")[:-1]}, "sessions.0.hashedToken: "),
            ({"hashedToken": hashed("x") + "\n"}, "sessions.0.hashedToken: "),
            ({"hashedToken": None}, "sessions.0.hashedToken: "),
            ({"hashedToken": "ü" * 44}, "sessions.0.hashedToken: "),
            ({"expiresAt": "tomorrow"}, "sessions.0.expiresAt: "),
            ({"expiresAt": 5}, "sessions.0.expiresAt: "),
            ({"expiresAt": "9999-12-31T23:59:59-23:00"}, "sessions.0.expiresAt: "),
        ],
    )
    def test_names_what_is_wrong(self, call, changes, problem):
        session = {"userId": "carol", "hashedToken": hashed("x"), **changes}
        refused(call(PUT, {"sessions": [session]}), problem)

    @pytest.mark.parametrize("sessions", [None, [], {}, [5], ["x"], [{}] * 1001])
    def test_refuses_what_is_no_list_of_sessions(self, call, sessions):
        refused(call(PUT, {"sessions": sessions}), "sessions")


class TestSessionsRevoke:
    @pytest.fixture
    def three(self, database, register, bob):
        callers = [database.sign_in("alice") for _ in range(3)]
        for number, caller in enumerate(callers):
            register(caller, value=str(number))
        register(bob, value="bob's")
        return callers

    def left(self, database):
        return {row["token"] for row in database.push_tokens()}

    def test_one(self, call, three, database):
        answer = call(REVOKE, {"userId": "alice", "hashedToken": hashed(three[1].auth_token)})
        assert answer.text == '{"sessions":1,"tokens":1,"success":true}'
        assert self.left(database) == {"0", "2", "bob's"}

    def test_elsewhere(self, call, three, database):
        keep = [hashed(three[0].auth_token)]
        answer = call(REVOKE, {"userId": "alice", "exceptHashedTokens": keep})
        assert answer.json == {"sessions": 2, "tokens": 2, "success": True}
        assert self.left(database) == {"0", "bob's"}

    @pytest.mark.parametrize("fields", [{}, {"exceptHashedTokens": []}])
    def test_everywhere(self, call, three, database, fields):
        answer = call(REVOKE, {"userId": "alice", **fields})
        assert answer.json == {"sessions": 3, "tokens": 3, "success": True}
        assert self.left(database) == {"bob's"}
        assert call(REVOKE, {"userId": "alice"}).json["sessions"] == 0

    def test_anothers_session_is_not_ended(self, call, bob, three):
        answer = call(REVOKE, {"userId": "alice", "hashedToken": hashed(bob.auth_token)})
        assert answer.json == {"sessions": 0, "tokens": 0, "success": True}

    @pytest.mark.parametrize(
        ("fields", "problem"),
        [
            ({}, "userId: "),
            ({"userId": "a", "hashedToken": "x"}, "hashedToken: "),
            ({"userId": "a", "exceptHashedTokens": "x"}, "exceptHashedTokens: "),
            ({"userId": "a", "exceptHashedTokens": [hashed("a"), 1]}, "exceptHashedTokens.1: "),
            (
                {"userId": "a", "hashedToken": hashed("a"), "exceptHashedTokens": []},
                "exceptHashedTokens: Goes without hashedToken.",
            ),
        ],
    )
    def test_names_what_is_wrong(self, call, alice, fields, problem, database):
        refused(call(REVOKE, fields), problem)
        assert len(database.rows("SELECT 1 FROM user_sessions")) == 1

    def test_a_user_with_more_sessions_than_a_statement_has_parameters(self, call, database):
        database.execute(
            "INSERT INTO user_sessions (token_hash, user_id)"
            " SELECT sha256(n::text::bytea), 'bot' FROM generate_series(1, 70000) n"
        )
        assert call(REVOKE, {"userId": "bot"}).json["sessions"] == 70_000

    def test_they_end_by_statements_of_so_many(self, call, app, database, monkeypatch, is_spread):
        """One for all of them would not end in time on partitions."""
        ended = []

        def note(connection, cursor, statement, parameters, context, many):
            if "DELETE FROM user_sessions" in statement:
                ended.append(cursor.rowcount)

        monkeypatch.setattr(sessions, "AT_ONCE", 2)
        for _ in range(5):
            database.sign_in("carol")
        with app.app_context():
            engine = db.engine
        event.listen(engine, "after_cursor_execute", note)
        try:
            assert call(REVOKE, {"userId": "carol"}).json["sessions"] == 5
        finally:
            event.remove(engine, "after_cursor_execute", note)
        assert ended == ([5] if is_spread else [2, 2, 1])  # spread tables have no cascade

    def test_a_session_announced_at_the_same_instant_lives_without_its_tokens(
        self, call, register, alice, database, database_url
    ):
        """The registry cannot know which came first: it is as if the announcement came last."""
        register(alice, value="before")
        answers = []
        with psycopg.connect(database_url) as other:
            other.execute("SELECT 1 FROM user_sessions WHERE user_id = 'alice' FOR UPDATE")
            revoking = threading.Thread(
                target=lambda: answers.append(call(REVOKE, {"userId": "alice"}))
            )
            revoking.start()
            waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            while not database.rows(f"{waiting} AND datname = current_database()"):
                assert revoking.is_alive()
            new = Caller("alice", "new")
            session = {"userId": "alice", "hashedToken": hashed("new")}
            assert call(PUT, {"sessions": [session]}).status_code == 200
            register(new, value="after")
        revoking.join()
        assert answers[0].json == {"sessions": 1, "tokens": 1, "success": True}
        assert self.left(database) == {"after"}

    def test_nothing_registered_at_the_same_instant_survives(
        self, new_app, database_url, issue, database, sweep
    ):
        headers = issue("sessions")
        clients = [new_app(database_url=database_url).test_client() for _ in range(3)]
        for number in range(15):
            callers = [database.sign_in("alice") for _ in range(6)]
            statuses = []

            def register(caller, client, number=number, statuses=statuses):
                for value in range(4):
                    fields = body(value=f"{number}-{value}-{caller.auth_token}")
                    answer = client.post(URL, json=fields, headers=caller.headers)
                    statuses.append(answer.status_code)

            threads = [
                threading.Thread(
                    target=register, args=(caller, clients[place % 2].application.test_client())
                )
                for place, caller in enumerate(callers)
            ]
            for thread in threads:
                thread.start()
            answer = clients[2].post(REVOKE, json={"userId": "alice"}, headers=headers)
            for thread in threads:
                thread.join()
            assert answer.json["sessions"] == 6
            assert set(statuses) <= {200, 401}
            sweep()
            assert database.push_tokens() == []
