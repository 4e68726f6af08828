"""How PostgreSQL finds rows for every statement that the service sends, on a filled table."""

import hashlib
import json
import re
import time
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg import Cursor
from psycopg.rows import tuple_row

from app.database.connections import Connection
from tests.support.databases import close, migrate
from tests.support.exports import row
from tests.support.factories import Database
from tests.support.filled import fill, register_many

# With half of them, PostgreSQL 15 rightly reads the table for the 3,000 rows of 1,000 users.
ROWS = 400_000
USERS = 1000  # that one call asks for, and verdicts and sessions in one call

SCOPES = [part for scope in ("lookup", "feedback", "sessions") for part in ("--scope", scope)]

# They read the table from end to end because that is what they are for.
WHOLE = {"export", "stats", "purge"}


def digest(number: int) -> bytes:
    return hashlib.sha256(f"session {number}".encode()).digest()


def hashed_token(number: int) -> str:
    return b64encode(digest(number)).decode()


def push_token(number: int) -> dict[str, str]:
    """Return app and value of a registration that tests.support.filled makes."""
    parts = [hashlib.md5(f"{part} {number}".encode()).hexdigest() for part in "ab"]
    return {"appName": f"app{number % 3}", "value": "".join(parts)}


class Plans:
    """The plans of what the service's connections execute, by the call that had it executed."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.call = ""
        self.scans: dict[str, set[str]] = {}
        self.of_apps: dict[str, set[str]] = {}
        self.indexes: set[str] = set()
        self.explained = 0
        execute = Cursor.execute

        def explained(cursor: Cursor[Any], query: Any, params: Any = None, **options: Any) -> Any:
            if isinstance(cursor.connection, Connection) and re.match(
                r"\s*(/\*.*?\*/\s*)?(SELECT|INSERT|UPDATE|DELETE|WITH)\b", str(query)
            ):
                # On the same connection: its settings and temporary tables decide, too.
                with Cursor(cursor.connection, row_factory=tuple_row) as other:
                    execute(other, f"EXPLAIN (FORMAT JSON) {query}", params, prepare=False)
                    self._add(str(query), other.fetchone()[0][0]["Plan"])
            return execute(cursor, query, params, **options)

        patch.setattr(Cursor, "execute", explained)

    def _add(self, query: str, plan: dict[str, Any]) -> None:
        self.explained += 1
        for node in nodes(plan):
            if node["Node Type"] == "Seq Scan" and node["Relation Name"] == "push_tokens":
                self.scans.setdefault(self.call, set()).add(query)
            if re.fullmatch(r"\(app_name = [^()]+\)", node.get("Index Cond", "")):
                self.of_apps.setdefault(self.call, set()).add(query)
            self.indexes |= {node.get("Index Name"), *node.get("Conflict Arbiter Indexes", [])}


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def counted(url: str, what: str, view: str) -> int:
    """Return what PostgreSQL has counted of push_tokens, once everybody has reported."""
    with psycopg.connect(url, autocommit=True) as connection:
        others = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> %s"
        while connection.execute(others, [connection.info.backend_pid]).fetchone():
            time.sleep(0.05)
        query = f"SELECT sum({what}) FROM {view} WHERE relname = 'push_tokens'"
        return int(connection.execute(query).fetchone()[0])


def sequential_scans(url: str) -> int:
    """Return how often push_tokens was read from end to end."""
    return counted(url, "seq_scan", "pg_stat_user_tables")


@pytest.fixture(scope="module")
def filled(new_database) -> str:
    url = new_database()
    migrate(url, "upgrade", "head")
    fill(url, ROWS)
    return url


def users_file(folder, name: str, documents: list[dict[str, Any]]) -> str:
    path = folder / name
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    return str(path)


def registrations(folder, numbers: range) -> str:
    """Write registrations for an import, newer than those that tests.support.filled makes."""
    rows, date = [], {"$date": "2030-01-01T00:00:00.000Z"}
    for number in numbers:
        app_name, value = push_token(number).values()
        names = {"_id": f"import{number}", "token": {"apn": value}, "appName": app_name}
        owner = {"userId": f"user{number // 2}", "authToken": hashed_token(number)}
        rows.append({**names, **owner, "createdAt": date, "updatedAt": date})
    return users_file(folder, "registrations", rows)


def apps_calls(client, call) -> None:
    """Make the calls of the apps."""
    auth_token = json.loads(call("issue", "sessions", "issue", "user1").stdout)["authToken"]
    headers = {"X-User-Id": "user1", "X-Auth-Token": auth_token}

    def register(**fields: object) -> None:
        body = {"type": "apn", **push_token(2), **fields}
        answer = client.post("/api/v1/push.token", json=body, headers=headers)
        assert answer.status_code == 200, answer.text

    call.plans.call = "register"
    register()
    register(value="new")
    call.plans.call = "register with an id"
    register(id="mine", value="mine 1")
    register(id="mine", value="mine 2")
    call.plans.call = "list one's own"
    assert client.get("/api/v1/push.token", headers=headers).status_code == 200
    call.plans.call = "remove"
    gone = client.delete("/api/v1/push.token", json={"token": "new"}, headers=headers)
    assert gone.status_code == 200
    call.plans.call = "logout"
    assert client.post("/api/v1/logout", headers=headers).status_code == 200


def services_calls(client, call) -> None:
    """Make the calls of the services that send."""
    key = json.loads(call("key", "service-keys", "issue", "x", *SCOPES).stdout)["key"]
    now = datetime.now(UTC).isoformat()
    verdict = {"provider": "fcm", "status": 404, "error": "UNREGISTERED", "sentAt": now}
    dead = [{**verdict, **push_token(2 * number + 1)} for number in range(100, 100 + USERS)]
    ids = [f"user{number}" for number in range(0, 50 * USERS, 50)]
    live = [{"userId": f"user{n // 2}", "hashedToken": hashed_token(n)} for n in range(USERS)]
    bodies = [
        ("lookup", {"userIds": ["user7"]}),
        ("lookup", {"userIds": ids}),
        ("lookup", {"userIds": ids, "appName": "app1", "type": "apn"}),
        ("list", {"count": 1000}),
        ("list", {"appName": "app1", "type": "apn", "updatedSince": now}),
        ("feedback", {"results": dead[:1]}),
        ("feedback", {"results": dead}),
        ("put", {"sessions": live}),
        ("revoke", {"userId": "user3", "hashedToken": hashed_token(6)}),
        ("revoke", {"userId": "user5", "exceptHashedTokens": [hashed_token(10)]}),
        ("revoke", {"userId": "user9"}),
    ]
    for name, body in bodies:
        call.plans.call = f"{name} {json.dumps(body)[:60]}"
        path = f"sessions.{name}" if name in {"put", "revoke"} else f"push.tokens.{name}"
        headers = {"Authorization": f"Bearer {key}"}
        answer = client.post(f"/api/v1/{path}", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        if cursor := answer.json.get("cursor"):
            body["cursor"] = cursor
            answer = client.post(f"/api/v1/{path}", json=body, headers=headers)
            assert answer.status_code == 200, answer.text


def commands(call, folder) -> None:
    """Run the commands that are not for the whole table."""
    date = {"$date": "2026-11-01T00:00:00.000Z"}
    tokens = [{"when": date, "hashedToken": hashed_token(n)} for n in (20, 21)]
    user = {"_id": "user10", "services": {"resume": {"loginTokens": tokens}}}
    call("sessions import", "sessions", "import", users_file(folder, "users", [user]))
    path = registrations(folder, range(3 * USERS))
    call("import", "push-tokens", "import", path)
    call("import known", "push-tokens", "import", path, "--known-sessions-only")
    call("revoke", "sessions", "revoke", "user11", "--all")
    call("keys", "service-keys", "list")
    call("key revoke", "service-keys", "revoke", "x")


def all_but_whole(call, folder) -> None:
    """Make every call, and run every command that is not for the whole table."""
    client = call.app.test_client()
    apps_calls(client, call)
    services_calls(client, call)
    commands(call, folder)
    call("expired", "sessions", "purge")


@pytest.fixture
def call_in(new_app, monkeypatch):
    """A function that makes one that runs a command of flask under the eyes of `call.plans`."""

    def call_in(url: str) -> Any:
        app = new_app(database_url=url)
        plans = Plans(monkeypatch)

        def call(name: str, *arguments: str) -> Any:
            plans.call = name
            result = app.test_cli_runner().invoke(args=arguments)
            assert result.exit_code == 0, result.output
            return result

        call.plans, call.app = plans, app
        return call

    return call_in


@pytest.fixture
def call(filled, call_in):
    """The one in the filled database."""
    return call_in(filled)


def test_no_call_reads_more_than_what_it_is_for(filled, call):
    """Up to PostgreSQL 17 a range of whole rows would be read on to the end of the app."""
    issued = [call("issue", "sessions", "issue", user).stdout for user in ("user1", "user2")]
    one, other = (
        {"X-User-Id": user, "X-Auth-Token": json.loads(text)["authToken"]}
        for user, text in zip(("user1", "user2"), issued, strict=True)
    )
    key = json.loads(call("key", "service-keys", "issue", "y", *SCOPES).stdout)["key"]
    service = {"Authorization": f"Bearer {key}"}
    mine, url = "/api/v1/push.token", "/api/v1/push.tokens"
    new = {"type": "apn", "appName": "app1"}  # their values come before all others
    verdict = {"provider": "fcm", "status": 404, "error": "UNREGISTERED"}
    dead = [{**verdict, **push_token(n), "sentAt": "2026-01-01T00:00:00Z"} for n in range(10)]
    calls = [
        ("POST", mine, one, new | {"value": "1"}),
        ("POST", mine, one, new | {"value": "2", "id": "phone"}),
        ("POST", mine, one, new | {"value": "3", "id": "phone", "voipToken": "4"}),
        ("POST", mine, one, new | {"value": "5", "id": "phone", "voipToken": "6"}),
        ("POST", mine, other, new | {"value": "5", "id": "phone"}),
        ("POST", mine, other, new | {"value": "1"}),
        ("GET", mine, one, None),
        ("DELETE", mine, other, {"token": "1"}),
        ("DELETE", mine, other, {"token": "unknown"}),
        ("POST", f"{url}.lookup", service, {"userIds": ["user7", "nobody"], "appName": "app1"}),
        ("POST", f"{url}.list", service, {"count": 10, "appName": "app1"}),
        ("POST", f"{url}.feedback", service, {"results": dead}),
        ("POST", "/api/v1/sessions.revoke", service, {"userId": "nobody"}),
        ("POST", "/api/v1/logout", one, None),
    ]
    client = call.app.test_client()
    pages = ("idx_blks_hit + idx_blks_read", "pg_statio_user_indexes")
    close(call.app)
    read, before = [], counted(filled, *pages)
    for method, path, headers, fields in calls:
        answer = client.open(path, method=method, headers=headers, json=fields)
        assert answer.status_code in {200, 404}, answer.text
        close(call.app)
        after = counted(filled, *pages)
        read.append(after - before)
        before = after
    assert max(read) < 300, read  # pages; the index of values has thousands


def test_no_statement_reads_all_push_tokens_and_no_index_is_idle(filled, call, tmp_path):
    before = sequential_scans(filled)
    all_but_whole(call, tmp_path)
    assert call.plans.scans == {}
    close(call.app)
    # What is not explained here, the foreign key's own statements, has not done it either.
    assert sequential_scans(filled) == before
    with psycopg.connect(filled) as connection:  # what reads all of it may do so with fewer rows
        connection.execute("TRUNCATE push_tokens, user_sessions, service_keys CASCADE")
    fill(filled, 3 * USERS)
    for name, arguments in {
        "purge": ["purge", "--unseen-days", "298"],
        "export": ["export"],
        "stats": ["stats"],
    }.items():
        call(name, "push-tokens", *arguments)
    assert set(call.plans.scans) <= WHOLE
    assert call.plans.explained > 60
    with psycopg.connect(filled) as connection:
        query = "SELECT indexrelname FROM pg_stat_user_indexes WHERE relname = ANY (%s)"
        all_indexes = connection.execute(query, [["push_tokens", "user_sessions"]])
        assert {name for (name,) in all_indexes} - call.plans.indexes == set()


def test_no_statement_reads_all_of_an_app_whatever_the_statistics(new_database, call_in, tmp_path):
    """Where a table had one row when it was analyzed, the app seems to say as much as a value."""
    url = new_database()
    migrate(url, "upgrade", "head")
    with psycopg.connect(url, autocommit=True) as connection:
        # With short push tokens, or the index of values would be larger than that of devices.
        register_many(Database(connection), 10 * USERS)
        # The last page has to stay, or VACUUM would cut off the empty ones before it.
        query = "DELETE FROM push_tokens WHERE ctid <> (SELECT max(ctid) FROM push_tokens)"
        connection.execute(query)
        connection.execute("VACUUM ANALYZE")
        connection.execute("DELETE FROM user_sessions")
    call = call_in(url)
    short = [row(f"t{number}", userId="one") for number in range(4 * USERS)]
    call("import short", "push-tokens", "import", users_file(tmp_path, "short", short))
    assert call.plans.of_apps == {}
    fill(url, USERS // 3, analyze=False)
    all_but_whole(call, tmp_path)
    assert call.plans.of_apps == {}
