"""One user's story: each refused request is one line that says who, why, and what type."""

import http.client
import json
import socket

import pytest

from app.api import errors
from tests.support.factories import Caller, body
from tests.support.live import Live, ask, serve

URL = "/api/v1/push.token"
LOOKUP = "/api/v1/push.tokens.lookup"


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("log") / "log"


@pytest.fixture(scope="module")
def warned(database_url, log):
    """The service at the level that leaves out what went well."""
    with serve(database_url, log=log, LOG_LEVEL="warning") as live:
        yield live


@pytest.fixture
def line(warned: Live, log):
    """A function that makes a call and returns the one line that it left, and the status."""

    def line(path, fields, method="POST", **headers):
        begin = log.stat().st_size
        status, answered, _ = ask(warned, path, fields, method, **headers)
        (found,) = map(json.loads, log.read_bytes()[begin:].splitlines())
        assert found["status"] == status
        assert found["request_id"] == answered["X-Request-Id"]
        return status, found

    return line


def who(line) -> tuple[object, object]:
    """Return the proven user, and the claimed one."""
    return line["user_id"], line.get("claimed_user_id")


@pytest.mark.parametrize(
    ("fields", "error_type"),
    [
        (body(type="wns"), "error-type-param-not-valid"),
        (body(value=""), "error-token-param-not-valid"),
        (body(appName=7), "error-appName-param-not-valid"),
        (b"nonsense", "error-type-param-not-valid"),
    ],
)
def test_a_400_names_the_field_and_the_user(line, alice, fields, error_type):
    status, found = line(URL, fields, **alice.headers)
    assert (status, found["level"]) == (400, "WARNING")
    assert (who(found), found["error_type"]) == (("alice", None), error_type)
    assert "invalid" in found["reason"]


def test_a_401_names_who_the_caller_claims_to_be(line, alice):
    for caller in (Caller("bob", alice.auth_token), Caller("alice", "x" * 43)):
        for fields in (body(), body(type="wns")):  # the fast path, and the view
            status, found = line(URL, fields, **caller.headers)
            assert (status, who(found)) == (401, (None, caller.user_id))
            assert (found["error_type"], found["reason"]) == ("unauthorized", errors.NO_SESSION)
    status, found = line(URL, body(), X_User_Id="alice")
    assert (status, who(found)) == (401, (None, "alice"))
    assert found["reason"] == errors.NO_CREDENTIALS


def test_services_are_named_and_told_why(line, issue):
    status, found = line(LOOKUP, {"userIds": 7}, **issue("lookup", name="sender"))
    assert (status, found["service"]) == (400, "sender")
    assert found["error_type"] == "error-invalid-params"
    assert found["reason"].startswith("userIds: ")
    status, found = line(LOOKUP, {}, **issue("feedback", name="other"))
    assert (status, found["service"], found["error_type"]) == (403, "other", "forbidden")
    status, found = line(LOOKUP, {}, Authorization="Bearer x")
    assert (status, found["error_type"]) == (401, "unauthorized")
    assert found["reason"] == "no live service key"


def test_who_proved_nothing_is_only_claimed_to_be(line, warned, log, alice):
    status, found = line(URL, b" " * 70_000, X_User_Id="bob", X_Auth_Token="x")
    assert (status, who(found), found["error_type"]) == (413, (None, "bob"), "too-large")
    begin = log.stat().st_size
    with socket.create_connection(("127.0.0.1", warned.port), timeout=60) as client:
        head = f"POST {URL} HTTP/1.1\r\nContent-Length: 99\r\nX-User-Id: bob\r\n"
        client.sendall(f"{head}X-Auth-Token: x\r\n\r\n{{".encode())
        client.shutdown(socket.SHUT_WR)
        assert b" 401 " in client.recv(4096)
    (found,) = map(json.loads, log.read_bytes()[begin:].splitlines())
    assert who(found) == (None, "bob")


def test_an_auth_token_sent_as_a_user_id_is_not_repeated(line, alice, issue):
    key = issue("lookup")["Authorization"].removeprefix("Bearer ")
    for secret in (alice.auth_token, f"x{alice.auth_token}", key, alice.token_hash.hex()):
        _, found = line(URL, body(), X_User_Id=secret, X_Auth_Token="alice")
        assert secret not in str(found)
        assert "not logged" in found["claimed_user_id"]


def test_a_credential_sent_as_a_request_id_is_not_repeated(line, log, alice, issue):
    key = issue("lookup")
    secret = key["Authorization"].removeprefix("Bearer ")
    line(LOOKUP, {}, X_Request_Id=secret, **key)
    line(URL, {}, X_Request_Id=alice.auth_token, **alice.headers)
    assert not [one for one in (secret, alice.auth_token) if one in log.read_text()]


def test_no_line_steers_a_terminal(line, log, alice):
    """In what is no character of ASCII; those below a blank, JSON escapes."""
    claimed = "a\x9b2Jb\u202e".encode()
    _, found = line(URL, body(), X_User_Id=claimed.decode("latin-1"), X_Auth_Token="x")
    assert found["claimed_user_id"] == claimed.decode()
    assert all(text.isprintable() for text in log.read_text().splitlines())


def test_a_503_has_its_reason_in_its_own_line(line, alice, database):
    database.execute(
        "CREATE FUNCTION full_() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE EXCEPTION 'x' USING ERRCODE = '53100'; END $$;"
        " CREATE TRIGGER full_ BEFORE INSERT ON push_tokens FOR EACH ROW EXECUTE FUNCTION full_()"
    )
    try:
        status, found = line(URL, body(), **alice.headers)
    finally:
        database.execute("DROP FUNCTION full_ CASCADE")
    assert (status, who(found), found["level"]) == (503, (None, "alice"), "WARNING")
    assert (found["error_type"], found["reason"]) == ("unavailable", "DiskFull 53100")


def test_readyz_says_in_its_line_what_is_wrong(line, database):
    database.execute("ALTER TABLE alembic_version RENAME TO away")
    try:
        status, found = line("/readyz", None, "GET")
    finally:
        database.execute("ALTER TABLE away RENAME TO alembic_version")
    assert (status, found["error_type"]) == (503, "unavailable")
    assert found["reason"].startswith("the database is at revision None")


def test_a_request_that_went_well_leaves_nothing_at_warning(warned, log, alice):
    begin = log.stat().st_size
    assert ask(warned, URL, body(), **alice.headers)[0] == 200
    assert log.stat().st_size == begin


def test_half_a_head_at_debug_leaves_none_of_it(database_url, alice, tmp_path):
    log = tmp_path / "log"
    with serve(database_url, log=log, LOG_LEVEL="debug") as live:
        secret = alice.auth_token
        for request in (
            f"POST {URL} HTTP/1.1\r\nX-Auth-Token: {secret}\r\nX-User-Id: al",
            f"POST {URL} HTTP/1.1\r\nX-Auth-Token: {secret}\r\n: {secret}\r\n\r\n",
            f"{secret} / HTTP/1.1\r\n\r\n",
            f"GET /{secret} HTTP/1.1\r\nHost: {secret}\r\nContent-Length: {secret}\r\n\r\n",
            f"POST {URL} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{secret}",
        ):
            live.exchange(request.encode())
        ask(live, URL, body(value="planted-token"), **alice.headers)
        ask(live, URL, method="GET", **alice.headers)
    written = log.read_text()
    for planted in (secret, "planted-token", alice.token_hash.hex()):
        assert planted not in written
    assert written.count('"error_type":"bad-request"') >= 4


def test_an_answer_that_is_cut_short_is_one_line_with_its_cause(
    database_url, database, issue, tmp_path
):
    database.execute(
        "INSERT INTO user_sessions (token_hash, user_id)"
        " SELECT sha256(n::text::bytea), 'u' || n FROM generate_series(0, 100) AS n;"
        " INSERT INTO push_tokens"
        "  (id, device_id, app_name, token, type, user_id, session_hash)"
        " SELECT n || '-' || m, m::text, 'a', n || '-' || m || repeat('x', 200), 'gcm', 'u' || n,"
        "  sha256(n::text::bytea) FROM generate_series(0, 100) AS n, generate_series(1, 100) AS m"
    )
    log = tmp_path / "log"
    fields = {"userIds": [f"u{n}" for n in range(101)]}
    with serve(database_url, "tests.support.cutting:app", log=log) as live:
        with pytest.raises(http.client.IncompleteRead):
            ask(live, LOOKUP, fields, **issue("lookup"), X_Request_Id="mine")
        assert live.says_yes("/healthz")
    (found,) = map(json.loads, log.read_text().splitlines())
    assert (found["level"], found["request_id"]) == ("ERROR", "mine")
    assert (found["error_type"], found["reason"]) == ("cut-short", "RuntimeError")
    assert "planted-secret" not in str(found).replace('RuntimeError("planted-secret")', "")
