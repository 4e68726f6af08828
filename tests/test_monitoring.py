"""Health and readiness."""

from tests.conftest import migrate


def test_healthz_needs_no_credentials(client):
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json) == (200, {"status": "ok"})


def test_readyz_is_ready_at_the_codes_revision(client):
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json["status"]) == (200, "ok")


def test_readyz_says_that_migrations_are_missing(new_database, new_app):
    url = new_database()
    client = new_app(database_url=url).test_client()
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert "the database is at revision None, the code at 0" in answer.json["error"]
    migrate(url, "upgrade", "head")
    assert client.get("/readyz").status_code == 200
    migrate(url, "downgrade", "base")
    assert client.get("/readyz").status_code == 503
