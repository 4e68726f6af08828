"""Health and readiness."""

from app.version import VERSION
from tests.support.databases import migrate
from tests.support.factories import body, uri


def test_healthz_needs_no_credentials(client):
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json) == (200, {"status": "ok", "version": VERSION})


def test_readyz_is_ready_at_the_codes_revision(client):
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json["status"]) == (200, "ok")
    assert answer.json["version"] == VERSION


def test_a_database_that_restarted_is_noticed_without_an_error(client, alice, database):
    """Connections that the pool keeps are dead then: each call finds out and goes again."""
    for _ in range(3):
        assert client.get("/readyz").status_code == 200
        assert client.get("/api/v1/push.token", headers=alice.headers).status_code == 200
        assert (
            client.post("/api/v1/push.token", json=body(), headers=alice.headers).status_code
            == 200
        )
        database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert client.get("/readyz").status_code == 200
    assert client.post("/api/v1/logout", headers=alice.headers).status_code == 200


def test_readyz_tells_a_refusal_from_silence(database_url, new_app):
    for changes, says in (
        ({"dbname": "there_is_none"}, "the database refuses the connection; the log says why"),
        ({"host": "127.0.0.1", "port": "1"}, "the database does not answer"),
    ):
        client = new_app(database_url=uri(database_url, **changes)).test_client()
        assert client.get("/readyz").json["error"] == says


def test_readyz_says_that_migrations_are_missing(new_database, new_app):
    url = new_database()
    client = new_app(database_url=url).test_client()
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert "the database is at revision None, the code at 0" in answer.json["error"]
    assert answer.json["version"] == VERSION
    migrate(url, "upgrade", "head")
    assert client.get("/readyz").status_code == 200
    migrate(url, "downgrade", "base")
    assert client.get("/readyz").status_code == 503
