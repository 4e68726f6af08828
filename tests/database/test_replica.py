"""DATABASE_READ_URL without a standby: what is away costs no caller anything."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from app import metrics
from app.database import replica
from app.database.replica import UnusableError
from app.models import db
from tests.support.factories import body

LOOKUP = "/api/v1/push.tokens.lookup"


def reads(server: str) -> float:
    return metrics.READS.labels(server)._value.get()


def test_lookup_and_list_are_read_there_and_nothing_else(
    new_app, database_url, issue, alice, monkeypatch
):
    """The server itself: one that is no standby counts as current."""
    app = new_app(database_url=database_url, database_read_url=database_url)
    client = app.test_client()
    headers = issue("lookup", "feedback", "sessions")
    before = reads("replica")
    client.post("/api/v1/push.token", json=body(), headers=alice.headers)
    assert client.get("/api/v1/push.token", headers=alice.headers).json["tokens"]
    assert reads("replica") == before
    found = client.post(LOOKUP, json={"userIds": ["alice"]}, headers=headers)
    listed = client.post("/api/v1/push.tokens.list", json={}, headers=headers)
    assert len(found.json["tokens"]) == len(listed.json["tokens"]) == 1
    assert reads("replica") == before + 2
    with app.app_context():
        pool = app.extensions["push_registry"].replica._engine.pool
        assert (pool.checkedout(), db.engine.pool.checkedout()) == (0, 0)


def test_a_replica_that_is_away_is_not_waited_for_again(
    new_app, database_url, issue, alice, tmp_path, caplog
):
    away = f"postgresql:///x?host={tmp_path}"
    client = new_app(database_url=database_url, database_read_url=away).test_client()
    headers = issue("lookup")
    client.post("/api/v1/push.token", json=body(), headers=alice.headers)
    before = reads("primary")
    for _ in range(3):
        found = client.post(LOOKUP, json={"userIds": ["alice"]}, headers=headers)
        assert len(found.json["tokens"]) == 1
    assert reads("primary") == before + 3
    said = [one for one in caplog.records if one.name == "app.database.replica"]
    assert len(said) == 1
    ready = client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json["warnings"] == ["the replica does not answer; the primary is read"]


def test_a_standby_that_has_replayed_nothing_yet_is_not_read(
    new_app, database_url, issue, monkeypatch
):
    monkeypatch.setattr(replica, "LAG", text("SELECT 'infinity'::float8, CAST(:written AS text)"))
    client = new_app(database_url=database_url, database_read_url=database_url).test_client()
    found = client.post(LOOKUP, json={"userIds": ["alice"]}, headers=issue("lookup"))
    assert found.status_code == 200
    warnings = client.get("/readyz").json["warnings"]
    assert warnings == ["the replica lags by an unknown time; the primary is read"]


def test_one_looks_whether_a_replica_is_back_and_no_other_waits(new_app, database_url):
    app = new_app(database_url=database_url, database_read_url=database_url)
    standby = app.extensions["push_registry"].replica

    def read(verb):
        with app.app_context():
            return standby.read(verb)

    standby._pause(0, "the replica does not answer")
    with ThreadPoolExecutor(1) as other:

        def while_one_waits():
            with pytest.raises(UnusableError):
                other.submit(read, lambda: "read").result()
            return "back"

        assert read(while_one_waits) == "back"
        assert other.submit(read, lambda: "read").result() == "read"


def test_a_replica_that_lacks_a_table_yet_is_not_read(new_app, database_url, issue, new_database):
    """As one that has not replayed a migration."""
    url = new_database()
    client = new_app(database_url=database_url, database_read_url=url).test_client()
    found = client.post(LOOKUP, json={"userIds": ["alice"]}, headers=issue("lookup"))
    assert (found.status_code, found.json["tokens"]) == (200, [])
