"""The connections of the group commit, and those of the pool: fenced ones and old ones go."""

import asyncio

import psycopg
import pytest
from sqlalchemy import text

from app import services
from app.models import db
from app.server import writer
from tests.support.committing import Gates, asked, committing, wait_for
from tests.support.factories import body

FENCE = "SET default_transaction_read_only = on"


@pytest.fixture
def gates(database_url):
    return Gates(database_url)


def test_a_connection_to_a_fenced_server_is_replaced(gates, monkeypatch, alice):
    with committing(gates, monkeypatch) as commit:
        commit.register(asked(alice, "t"))
        (first,) = gates.connections
        fenced = commit.commit._group_writer._exchange._exchange(
            lambda: first.pgconn.send_query(FENCE.encode())
        )
        asyncio.run_coroutine_threadsafe(fenced, commit._loop).result(60)
        assert commit.register(asked(alice, "t"))
        assert first.closed
        assert len(gates.connections) == 2


def test_an_old_connection_is_replaced_while_it_works_on(gates, monkeypatch, alice):
    with committing(gates, monkeypatch, max_age=0.2) as commit:
        commit.register(asked(alice, "t"))
        first = gates.connections[0]
        wait_for(lambda: commit.commit._group_writer._next)
        assert not first.closed
        assert commit.register(asked(alice, "t"))
        assert first.closed
        second = gates.connections[1]
        wait_for(lambda: commit.commit._group_writer._next)  # an idle one ages too
        assert commit.register(asked(alice, "t"))
        assert second.closed


def test_an_old_connection_stays_while_no_new_one_is_to_be_had(gates, monkeypatch, alice):
    monkeypatch.setattr(writer, "RENEWAL_PAUSE", 0.05)
    tries = []

    def fail(**kwargs):
        tries.append(1)
        raise psycopg.OperationalError("x")

    connect = gates._connect
    with committing(gates, monkeypatch, max_age=0.2) as commit:
        commit.register(asked(alice, "t"))
        gates._connect = fail
        wait_for(lambda: len(tries) > 1)
        assert commit.register(asked(alice, "t"))
        assert not gates.connections[0].closed
        gates._connect = connect
        wait_for(lambda: commit.commit._group_writer._next)


def test_pooled_connections_to_a_fenced_server_are_replaced(new_app, database_url, alice):
    """Also before they are only read from, and whatever is answered by them."""
    app = new_app(database_url=database_url, database_pool_size=1)
    client = app.test_client()
    for method, path in (("GET", "/readyz"), ("GET", "/api/v1/push.token")):
        with app.app_context():
            pid = db.session.scalar(text("SELECT pg_backend_pid()"))
            db.session.execute(text(FENCE))
            db.session.commit()
        assert client.open(path, method=method, headers=alice.headers).status_code == 200
        with app.app_context():
            assert db.session.scalar(text("SELECT pg_backend_pid()")) != pid


@pytest.mark.parametrize("way", ["retrying", "committed"])
def test_what_a_server_answered_that_is_fenced_is_read_anew(app, monkeypatch, way):
    """PostgreSQL says so beside the first answer after it was fenced."""
    answers: list[int] = []

    def verb() -> int:
        answers.append(db.session.scalar(text("SELECT 1")) + len(answers))
        return answers[-1]

    monkeypatch.setattr("app.database.retries.is_fenced", lambda _: len(answers) == 1)
    with app.app_context():
        assert getattr(services.current(), way)(verb) == 2


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_server_that_is_fenced_at_this_moment_fails_no_call(
    new_app, database_url, alice, method, monkeypatch
):
    """What it says of itself comes beside the next answer; until then only the error shows it."""
    monkeypatch.setattr("app.database.session_settings.is_fenced", lambda connection: False)
    app = new_app(database_url=database_url, database_pool_size=1)
    with app.app_context():
        db.session.execute(text(FENCE))
        db.session.commit()
    client = app.test_client()
    path = "/api/v1/push.token" if method == "POST" else "/readyz"
    answer = client.open(path, method=method, json=body(), headers=alice.headers)
    assert answer.status_code == (200 if method == "POST" else 503)
    if method == "GET":
        assert "takes no writes" in answer.json["error"]


def test_pooled_connections_are_replaced_when_they_are_old(new_app, database_url, alice):
    app = new_app(database_url=database_url, database_pool_size=1, database_max_age_seconds=60)
    with app.app_context():
        pid = db.session.scalar(text("SELECT pg_backend_pid()"))
        assert db.session.scalar(text("SELECT pg_backend_pid()")) == pid
        db.session.rollback()
        connection = db.engine.raw_connection()
        connection._connection_record.starttime -= 61
        connection.close()
        assert db.session.scalar(text("SELECT pg_backend_pid()")) != pid
