"""Every error is JSON, whatever raised it, and tells nothing of the inside."""

import socket

import psycopg
import pytest
from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError

from app.models import UserSession, db
from app.registry import push_tokens
from tests.support.factories import body
from tests.support.patience import keeps, seconds

URL = "/api/v1/push.token"


@pytest.mark.parametrize(
    "path", ["/nope", "/api/v1/push.token/", "//api/v1/push.token", "/%ff%00", "/healthz/"]
)
def test_an_unknown_path_is_404(client, path):
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.content_type == "application/json"
    assert answer.json == {"success": False, "error": "API endpoint does not exist"}


@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS", "TRACE", "BREW"])
def test_a_wrong_method_is_405_and_says_which_are_right(client, method):
    answer = client.open(URL, method=method)
    assert answer.status_code == 405
    assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "POST", "DELETE"}
    assert answer.json == {"success": False, "error": "Method not allowed"}


@pytest.mark.parametrize(
    ("method", "path"), [("POST", URL), ("DELETE", URL), ("POST", "/api/v1/logout")]
)
def test_an_oversized_body_is_413_on_every_call(client, alice, method, path):
    answer = client.open(path, method=method, data=b"x" * 65537, headers=alice.headers)
    assert answer.status_code == 413
    assert answer.json == {"success": False, "error": "Request entity too large"}


def test_an_exception_of_our_own_is_500_and_says_nothing(client, alice, monkeypatch, logged_here):
    secret = "planted" + "-secret"

    def fail(*_):
        raise ZeroDivisionError(secret)

    monkeypatch.setattr(push_tokens, "of_user", fail)
    answer = client.get(URL, headers=alice.headers)
    assert answer.status_code == 500
    assert answer.json == {"success": False, "error": "Internal server error"}
    (line,) = logged_here
    assert (line["level"], line["error_type"]) == ("ERROR", "internal-error")
    assert line["reason"] == "ZeroDivisionError"
    assert "in fail" in line["trace"]
    assert secret not in str(line)


def test_a_database_error_keeps_rows_and_parameters_out_of_answer_and_log(
    client, alice, monkeypatch, logged_here
):
    """PostgreSQL's DETAIL of a duplicate key repeats the key: here the hash of an auth token."""

    def insert_again(*_):
        row = {"token_hash": alice.token_hash, "user_id": "planted" + "-secret"}
        db.session.execute(insert(UserSession).values(row))

    monkeypatch.setattr(push_tokens, "of_user", insert_again)
    answer = client.get(URL, headers=alice.headers)
    assert answer.status_code == 500
    (line,) = logged_here
    assert (line["user_id"], line["reason"]) == ("alice", "UniqueViolation 23505")
    for secret in ("planted-secret", alice.token_hash.hex(), alice.auth_token, "INSERT INTO"):
        assert secret not in answer.text + str(line)


def test_nor_does_an_error_that_a_database_error_led_to(client, alice, monkeypatch, logged_here):
    """SQLAlchemy's PendingRollbackError tells the whole first error again; so may any other."""

    def insert_and_go_on(*_):
        row = {"token_hash": alice.token_hash, "user_id": "planted" + "-secret"}
        try:
            db.session.execute(insert(UserSession).values(row))
        except IntegrityError as error:
            raise ValueError(str(error)) from error

    monkeypatch.setattr(push_tokens, "of_user", insert_and_go_on)
    answer = client.get(URL, headers=alice.headers)
    assert answer.status_code == 500
    (line,) = logged_here
    assert line["reason"] == "ValueError"
    assert "insert_and_go_on" in line["trace"]
    for secret in ("planted-secret", alice.token_hash.hex(), "INSERT INTO"):
        assert secret not in answer.text + str(line)


def test_a_pool_that_is_used_up_is_one_plain_line(new_app, database_url, alice, logged_here):
    app = new_app(database_url=database_url, database_pool_size=1, request_deadline=0.2)
    with app.app_context(), db.engine.connect():
        answer = app.test_client().get(URL, headers=alice.headers)
    assert answer.status_code == 503
    (line,) = logged_here
    assert (line["level"], line["error_type"]) == ("WARNING", "unavailable")
    assert line["reason"] == "every connection of the pool is in use"
    assert (line["user_id"], line["claimed_user_id"]) == (None, "alice")


@pytest.mark.parametrize(
    "error",
    [
        psycopg.errors.TooManyConnections("x"),
        psycopg.errors.DiskFull("x"),
        psycopg.errors.ReadOnlySqlTransaction("x"),
        psycopg.errors.AdminShutdown("x"),
        psycopg.errors.QueryCanceled("x"),
    ],
)
def test_a_database_in_trouble_is_503(client, alice, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(push_tokens, "register", fail)
    answer = client.post(URL, json=body(id="x"), headers=alice.headers)
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "1"
    assert answer.json == {"success": False, "error": "Service unavailable"}


class TestDatabaseAway:
    """A server that refuses, and one that takes connections and never says a word."""

    @pytest.fixture(params=["refuses", "silent"])
    def away(self, request, tmp_path, new_app):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / ".s.PGSQL.5432"))
            if request.param == "silent":
                listener.listen(100)
            url = f"postgresql:///x?host={tmp_path}"
            yield new_app(database_url=url, database_connect_timeout=2).test_client()

    @pytest.mark.parametrize(
        ("method", "path", "fields"),
        [
            ("POST", URL, body()),
            ("POST", URL, body(id="device")),
            ("POST", URL, {}),
            ("DELETE", URL, {"token": "x"}),
            ("GET", URL, {}),
            ("POST", "/api/v1/logout", {}),
            ("GET", "/readyz", None),
        ],
    )
    def test_is_503_in_bounded_time(self, away, method, path, fields):
        headers = {"X-User-Id": "alice", "X-Auth-Token": "x"}

        def ask() -> None:
            answer = away.open(path, method=method, json=fields, headers=headers)
            assert answer.status_code == 503
            assert answer.json["success"] is False
            assert "host" not in answer.text
            assert answer.headers["Retry-After"] == "1"

        keeps(6, lambda: seconds(ask))

    def test_leaves_healthz_alone(self, away):
        assert away.get("/healthz").status_code == 200
