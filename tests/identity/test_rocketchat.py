"""Rocket.Chat decides who is signed in: what it says, what it fails to say, and what is kept."""

import base64
import json
import secrets
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import event

from app.config import ConfigError, Settings
from app.identity import rocketchat
from app.identity.rocketchat import CheckResult, RocketChat
from app.models import db
from tests.support.chat import ERAS, FAULTS, answer, chat, honest
from tests.support.factories import Caller, body
from tests.support.live import free_port
from tests.support.patience import keeps, seconds
from tests.support.proxy import certify

URL = "/api/v1/push.token"
LOGGED_OUT = {"status": "error", "message": "You must be logged in to do this."}
AWAY = {"success": False, "error": "Service unavailable"}
RECHECK, GRACE = 600, 3600


@pytest.fixture
def server():
    with chat() as server:
        yield server


def patience(server) -> property:
    """How long an answer is waited for: short for faults, and for all others as long as it takes.

    A busy machine needs a second for an honest one now and then.
    """
    return property(lambda _: 0.8 if server.fault in FAULTS.values() else 30, lambda *_: None)


@pytest.fixture
def judged(new_app, database_url, server, monkeypatch):
    """The service, for which that server decides; it forgets at once that the server was away."""
    monkeypatch.setattr(rocketchat, "COOLDOWN", 0.0)
    monkeypatch.setattr(RocketChat, "_timeout", patience(server), raising=False)
    return new_app(
        database_url=database_url,
        database_pool_size=3,
        auth_backend="rocketchat",
        rocketchat_url=server.url,
        rocketchat_recheck_seconds=RECHECK,
        rocketchat_grace_seconds=GRACE,
        rocketchat_checks_per_minute=1_000_000,
        session_days=30,
    )


@pytest.fixture
def ask_at():
    """A function that makes the way to a Rocket.Chat."""
    return lambda url, timeout=30: RocketChat(url, timeout)


@pytest.fixture
def client(judged):
    return judged.test_client()


@pytest.fixture
def runner(judged):
    return judged.test_cli_runner()


@pytest.fixture
def carol(server):
    """Somebody whom only Rocket.Chat knows."""
    caller = Caller("carol", secrets.token_urlsafe(32))
    server.signed_in[caller.auth_token] = "carol"
    return caller


@pytest.fixture
def aged(database, client, carol):
    """A function that makes Carol's session one that was confirmed some seconds ago."""

    def aged(seconds):
        assert client.get(URL, headers=carol.headers).status_code == 200
        database.execute(
            "UPDATE user_sessions SET verified_at = now() - %s * interval '1 second'", seconds
        )

    return aged


def post(client, caller, **fields):
    return client.post(URL, json=body(**fields), headers=caller.headers)


CALLS = {
    "register": post,
    "register_device": lambda client, caller: post(client, caller, id="device"),
    "register_invalid": lambda client, caller: post(client, caller, type="wns"),
    "list": lambda client, caller: client.get(URL, headers=caller.headers),
    "remove": lambda client, caller: client.delete(
        URL, json={"token": "none"}, headers=caller.headers
    ),
    "logout": lambda client, caller: client.post("/api/v1/logout", headers=caller.headers),
}
SIGNED_IN = {"register_invalid": 400, "remove": 404}


@pytest.mark.parametrize("call", CALLS)
def test_every_call_lets_in_whom_rocketchat_confirms(client, database, server, carol, call):
    answer = CALLS[call](client, carol)
    assert answer.status_code == SIGNED_IN.get(call, 200), answer.text
    assert server.asked == {carol.auth_token: 1}
    assert server.paths == ["/api/v1/me"]
    sessions = database.rows(
        "SELECT user_id, token_hash, can_sign_in,"
        " verified_at > now() - interval '1 minute' AS new,"
        " expires_at - verified_at = interval '30 days' AS days FROM user_sessions"
    )
    kept = {"user_id": "carol", "token_hash": carol.token_hash, "can_sign_in": True}
    assert sessions == ([] if call == "logout" else [{**kept, "new": True, "days": True}])


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("call", CALLS)
def test_every_call_refuses_whom_rocketchat_denies(client, database, server, call, era):
    server.era = era
    answer = CALLS[call](client, Caller("mallory", "x" * 43))
    assert (answer.status_code, answer.json) == (401, LOGGED_OUT)
    assert database.rows("SELECT FROM user_sessions") == database.push_tokens() == []


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("fault", FAULTS)
def test_no_fault_lets_a_stranger_in_or_signs_anybody_out(
    client, database, server, carol, fault, call
):
    server.fault = FAULTS[fault]

    def ask() -> None:
        answer = CALLS[call](client, carol)
        assert (answer.status_code, answer.json) == (503, AWAY)
        assert answer.headers["Retry-After"] == "1"

    keeps(2, lambda: seconds(ask))
    assert database.rows("SELECT FROM user_sessions") == database.push_tokens() == []
    server.fault = honest
    time.sleep(0.01)
    assert CALLS[call](client, carol).status_code == SIGNED_IN.get(call, 200)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_session_confirmed_lately_works_on_through_every_fault(
    client, server, aged, fault, carol
):
    aged(RECHECK + GRACE - 100)
    server.fault = FAULTS[fault]
    for call, make in CALLS.items():
        answer = make(client, carol)
        assert answer.status_code == SIGNED_IN.get(call, 200), call


def test_the_grace_ends(client, server, aged, carol, database):
    aged(RECHECK + GRACE + 1)
    server.fault = FAULTS["broken"]
    for make in CALLS.values():
        assert make(client, carol).status_code == 503
    assert len(database.rows("SELECT FROM user_sessions")) == 1
    server.fault = honest
    assert post(client, carol).status_code == 200


def test_the_grace_does_not_renew_itself(client, server, aged, carol, database):
    aged(RECHECK + 1)
    (before,) = database.rows("SELECT verified_at, expires_at FROM user_sessions")
    server.fault = FAULTS["unavailable"]
    assert post(client, carol).status_code == 200
    assert database.rows("SELECT verified_at, expires_at FROM user_sessions") == [before]


def test_nobody_listens(judged, client, server, aged, carol):
    aged(RECHECK + 1)
    server.shutdown()
    server.server_close()
    assert post(client, carol).status_code == 200
    stranger = post(client, Caller("dave", "x" * 43))
    assert (stranger.status_code, stranger.headers["Retry-After"]) == (503, "1")


def test_redirects_are_not_followed(client, server, carol):
    with chat() as elsewhere:
        elsewhere.signed_in = server.signed_in
        for status in (301, 302, 303, 307, 308):
            server.fault = answer(status, b"", Location=f"{elsewhere.url}/api/v1/me")
            assert post(client, carol).status_code == 503
        assert not elsewhere.asked


def test_a_fresh_session_costs_one_statement_and_no_question(
    judged, client, server, carol, is_spread
):
    assert post(client, carol).status_code == 200
    statements = []
    with judged.app_context():
        event.listen(db.engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
    assert post(client, carol).status_code == 200
    # The view sets for its transaction what the fast path's connection has for good.
    expected = [True, *[False] * (4 if is_spread else 1)]
    assert ["set_config(" in statement for statement in statements] == expected
    statements.clear()
    assert client.get(URL, headers=carol.headers).status_code == 200
    assert len(statements) == 2  # who is it, and the list
    assert server.asked == {carol.auth_token: 1}


def test_a_session_is_asked_about_again_when_it_is_no_longer_fresh(client, server, aged, carol):
    aged(RECHECK - 5)
    assert post(client, carol).status_code == 200
    assert server.asked[carol.auth_token] == 1
    aged(RECHECK + 1)
    for _ in range(3):
        assert post(client, carol).status_code == 200
    assert server.asked[carol.auth_token] == 2


def test_a_denial_ends_the_session_and_its_registrations(client, server, aged, carol, database):
    assert post(client, carol).status_code == 200
    aged(RECHECK + 1)
    server.signed_in.clear()
    assert post(client, carol, value="another").status_code == 401
    assert database.rows("SELECT FROM user_sessions") == database.push_tokens() == []


def test_a_session_that_was_issued_or_announced_here_is_trusted(
    client, runner, server, database, call
):
    issued = json.loads(runner.invoke(args=["sessions", "issue", "alice"]).stdout)
    alice = Caller("alice", issued["authToken"])
    bob = Caller("bob", secrets.token_urlsafe(32))
    digest = base64.b64encode(bob.token_hash).decode()
    call("/api/v1/sessions.put", {"sessions": [{"userId": "bob", "hashedToken": digest}]})
    server.fault = FAULTS["broken"]
    for caller in (alice, bob):
        assert post(client, caller).status_code == 200
        assert post(client, Caller("eve", caller.auth_token)).status_code == 503
    assert not server.asked.keys() - {alice.auth_token, bob.auth_token}
    # Neither does it end because somebody shows it under another name.
    server.fault = honest
    for caller in (alice, bob):
        assert post(client, Caller("eve", caller.auth_token)).status_code == 401
        assert post(client, caller).status_code == 200


def test_one_that_is_announced_needs_no_confirmation_from_then_on(
    client, server, aged, carol, call
):
    aged(RECHECK + GRACE + 1)
    digest = base64.b64encode(carol.token_hash).decode()
    call("/api/v1/sessions.put", {"sessions": [{"userId": "carol", "hashedToken": digest}]})
    server.fault = FAULTS["broken"]
    assert post(client, carol).status_code == 200


def test_an_expired_session_of_ours_is_rocketchats_to_renew(client, server, database):
    alice = database.sign_in("alice", expires="-1 second")
    assert post(client, alice).status_code == 401
    assert database.rows("SELECT FROM user_sessions") == []
    bob = database.sign_in("bob", expires="-1 second")
    server.signed_in[bob.auth_token] = "bob"
    assert post(client, bob).status_code == 200


def test_an_imported_session_is_fresh_and_then_rocketchats(
    client, runner, server, carol, database, tmp_path
):
    digest = base64.b64encode(carol.token_hash).decode()
    user = {"_id": "carol", "services": {"resume": {"loginTokens": [{"hashedToken": digest}]}}}
    (tmp_path / "users").write_text(json.dumps(user))
    assert runner.invoke(args=["sessions", "import", str(tmp_path / "users")]).exit_code == 0
    assert post(client, carol).status_code == 200
    assert not server.asked
    database.execute("UPDATE user_sessions SET verified_at = now() - interval '1 day'")
    server.signed_in.clear()
    assert post(client, carol).status_code == 401


def test_what_only_held_imported_registrations_becomes_real(client, server, database):
    holder = database.sign_in("carol", expires=None, can_sign_in=False)
    database.execute(
        "INSERT INTO push_tokens"
        " (id, device_id, app_name, token, type, user_id, session_hash)"
        " VALUES ('kept', 'kept', 'a', 't', 'gcm', 'carol', %s)",
        holder.token_hash,
    )
    server.fault = FAULTS["broken"]
    assert post(client, holder).status_code == 503
    server.fault = honest
    server.signed_in[holder.auth_token] = "carol"
    listed = client.get(URL, headers=holder.headers)
    assert [one["_id"] for one in listed.json["tokens"]] == ["kept"]
    server.signed_in.clear()
    database.execute("UPDATE user_sessions SET can_sign_in = false, verified_at = NULL")
    time.sleep(0.01)
    assert client.get(URL, headers=holder.headers).status_code == 401
    assert database.push_tokens() == []


def test_rocketchat_knows_better_whose_a_hash_is(client, server, database, carol):
    database.execute(
        "INSERT INTO user_sessions (token_hash, user_id) VALUES (%s, 'bob')", carol.token_hash
    )
    assert post(client, Caller("bob", carol.auth_token)).status_code == 200
    assert post(client, carol).status_code == 200
    (session,) = database.rows("SELECT user_id FROM user_sessions")
    assert session["user_id"] == "carol"
    assert [row["user_id"] for row in database.push_tokens()] == ["carol"]


def test_who_logs_out_during_a_check_stays_out(client, server, aged, carol, database):
    aged(RECHECK + 1)

    def log_out_meanwhile(handler):
        database.execute("DELETE FROM user_sessions")
        honest(handler)

    server.fault = log_out_meanwhile
    assert post(client, carol).status_code == 401
    assert database.rows("SELECT FROM user_sessions") == database.push_tokens() == []


def test_who_is_announced_during_a_check_stays_in(client, server, aged, carol, database):
    aged(RECHECK + 1)
    server.signed_in.clear()

    def announce_meanwhile(handler):
        database.execute("UPDATE user_sessions SET verified_at = NULL")
        honest(handler)

    server.fault = announce_meanwhile
    assert post(client, carol).status_code == 401
    server.fault = honest
    assert post(client, carol).status_code == 200


def test_senders_still_reach_a_session_that_nobody_has_confirmed_lately(
    client, aged, carol, issue, server
):
    assert post(client, carol).status_code == 200
    aged(RECHECK + GRACE + 1)
    server.fault = FAULTS["broken"]
    asked = client.post(
        "/api/v1/push.tokens.lookup", json={"userIds": ["carol"]}, headers=issue("lookup")
    )
    assert len(asked.json["tokens"]) == 1


def test_many_with_the_same_credentials_ask_once(judged, server, carol):
    def slow(handler):
        time.sleep(0.2)
        honest(handler)

    server.fault = slow
    with ThreadPoolExecutor(50) as pool:
        calls = pool.map(lambda n: post(judged.test_client(), carol, value=f"t{n}"), range(50))
        assert {call.status_code for call in calls} == {200}
    assert server.asked == {carol.auth_token: 1}


def test_at_most_so_many_ask_at_once(server, monkeypatch, ask_at):
    monkeypatch.setattr(rocketchat, "MAX_CONNECTIONS", 3)
    at_once, most, mutex = 0, 0, threading.Lock()

    def count(handler):
        nonlocal at_once, most
        with mutex:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.05)
        with mutex:
            at_once -= 1
        honest(handler)

    server.fault = count
    upstream = ask_at(server.url)
    with ThreadPoolExecutor(12) as pool:
        verdicts = pool.map(lambda n: upstream.ask(b"%d" % n, b"secret%d" % n, "dave"), range(12))
        assert set(verdicts) == {CheckResult.DENIED}
    assert most == 3


def test_who_finds_no_free_line_in_time_is_not_let_in(server, monkeypatch, ask_at):
    monkeypatch.setattr(rocketchat, "MAX_CONNECTIONS", 1)
    asked = threading.Event()
    server.fault = lambda handler: asked.wait(60)
    upstream = ask_at(server.url, 0.3)
    with ThreadPoolExecutor(4) as pool:
        began = time.monotonic()
        verdicts = pool.map(lambda n: upstream.ask(b"%d" % n, b"secret%d" % n, "dave"), range(4))
        assert set(verdicts) == {CheckResult.UNSURE}
        assert time.monotonic() - began < 30  # it is silent for 60
    asked.set()


def test_wrong_credentials_are_asked_about_once_in_a_while(client, server, monkeypatch):
    mallory = Caller("mallory", "x" * 43)
    for _ in range(5):
        assert post(client, mallory).status_code == 401
    assert server.asked == {mallory.auth_token: 1}
    now = time.monotonic()
    monkeypatch.setattr(rocketchat.time, "monotonic", lambda: now + rocketchat.DENIED_FOR + 1)
    server.signed_in[mallory.auth_token] = "mallory"
    assert post(client, mallory).status_code == 200


def test_what_is_remembered_is_bounded(server, monkeypatch, ask_at):
    monkeypatch.setattr(rocketchat, "MAX_DENIED", 10)
    upstream = ask_at(server.url)
    for number in range(30):
        assert upstream.ask(b"%d" % number, b"x", "dave") is CheckResult.DENIED
    assert len(upstream._denied) == 10


def test_when_it_is_away_one_tries_and_the_others_do_not_wait(server, monkeypatch, ask_at):
    monkeypatch.setattr(rocketchat, "COOLDOWN", 600)
    upstream = ask_at(server.url, 0.2)
    server.fault = FAULTS["hang"]
    assert upstream.ask(b"0", b"secret", "dave") is CheckResult.UNSURE
    began = time.monotonic()
    for _ in range(100):
        assert upstream.ask(b"0", b"secret", "dave") is CheckResult.UNSURE
    assert time.monotonic() - began < 10  # or it were 20
    assert server.asked.total() == 1
    server.fault = honest
    server.signed_in["secret"] = "dave"
    now = time.monotonic()
    monkeypatch.setattr(rocketchat.time, "monotonic", lambda: now + 601)
    upstream._timeout = 20  # an honest answer takes a while on a busy machine
    assert upstream.ask(b"0", b"secret", "dave") is CheckResult.CONFIRMED
    assert upstream.ask(b"0", b"secret", "dave") is CheckResult.CONFIRMED


def test_one_that_was_away_is_asked_again_when_it_is_back(ask_at, monkeypatch):
    monkeypatch.setattr(rocketchat, "COOLDOWN", 0)
    port = free_port()
    upstream = ask_at(f"http://127.0.0.1:{port}/")
    for _ in range(3):
        with chat(port) as server:
            server.signed_in["secret"] = "dave"
            for _ in range(3):
                assert upstream.ask(b"0", b"secret", "dave") is CheckResult.CONFIRMED
        assert upstream.ask(b"0", b"secret", "dave") is CheckResult.UNSURE


@pytest.mark.parametrize("late", [0, 0.05])
@pytest.mark.parametrize("status", [200, 401])
def test_an_answer_that_comes_twice_is_believed_once(server, ask_at, monkeypatch, late, status):
    """However late the second one is: for the next caller it would be somebody else's."""
    said = {200: {"_id": "dave", "success": True}, 401: ERAS["8.0"]}[status]

    def twice(handler):
        handler.say(status, said)
        time.sleep(late)
        handler.say(status, said)
        time.sleep(0.2)

    monkeypatch.setattr(rocketchat, "MAX_CONNECTIONS", 1)
    upstream = ask_at(server.url)
    server.fault = twice
    assert (
        upstream.ask(b"1", b"one", "dave")
        is CheckResult[{200: "CONFIRMED", 401: "DENIED"}[status]]
    )
    upstream._timeout = 2
    server.fault = answer(403, {}) if late else FAULTS["hang"]
    assert upstream.ask(b"2", b"two", "dave") is CheckResult.UNSURE


def test_a_path_before_the_api_is_kept(server, ask_at):
    server.signed_in["secret"] = "dave"
    upstream = ask_at(f"{server.url}/chat/")
    assert upstream.ask(b"0", b"secret", "dave") is CheckResult.CONFIRMED
    assert server.paths == ["/chat/api/v1/me"]


@pytest.mark.parametrize(
    ("auth_token", "user_id"),
    [
        (b"a\r\nX-User-Id: admin", "dave"),
        (b"a\nb", "dave"),
        (b"a\x00b", "dave"),
        (b"a\tb", "dave"),
        (b" a", "dave"),
        (b"a", "da\r\nve"),
        (b"a", "dave "),
    ],
)
def test_what_no_header_can_carry_is_denied_unasked(server, auth_token, user_id, ask_at):
    assert ask_at(server.url).ask(b"0", auth_token, user_id) is CheckResult.DENIED
    assert not server.asked


@pytest.mark.parametrize(
    "user_id", ["dave", "J\u00fcrgen", "\u65e5\u672c", "\U0001f600", "a b:c,d"]
)
@pytest.mark.parametrize("auth_token", [b"x" * 43, b"\xe9\xff\x80", "\u20ac".encode(), b"a b;c=d"])
def test_headers_arrive_byte_by_byte(client, server, user_id, auth_token):
    secret = auth_token.decode("latin-1")
    server.signed_in[secret] = user_id
    headers = {"X-Auth-Token": secret, "X-User-Id": user_id.encode().decode("latin-1")}
    answer = client.post(URL, json=body(), headers=headers)
    assert (answer.status_code, answer.json["result"]["userId"]) == (200, user_id)


def test_a_certificate_that_nobody_vouches_for_is_not_spoken_to(tmp_path, monkeypatch, ask_at):
    certify(tmp_path)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with chat() as server:
        server.encrypt(tmp_path / "fullchain.pem", tmp_path / "privkey.pem")
        server.signed_in["secret"] = "dave"
        assert ask_at(server.url).ask(b"0", b"secret", "dave") is CheckResult.UNSURE
        assert not server.asked
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "fullchain.pem"))
        assert ask_at(server.url).ask(b"0", b"secret", "dave") is CheckResult.CONFIRMED


@pytest.mark.parametrize("fault", FAULTS)
def test_the_log_says_why_and_holds_no_secret(client, server, caplog, logged_here, carol, fault):
    server.fault = FAULTS[fault]
    assert post(client, carol).status_code == 503
    (line,) = logged_here
    assert (line["user_id"], line["claimed_user_id"]) == (None, "carol")
    assert str(line["reason"]).startswith("Rocket.Chat does not say who is signed in: it ")
    assert str(line["reason"]).removeprefix("Rocket.Chat does not say who is signed in: it ") in (
        caplog.text
    )
    for secret in (carol.auth_token, carol.token_hash.hex(), body()["value"]):
        assert str(secret) not in caplog.text + str(line)


@pytest.mark.parametrize(
    "url",
    [
        "chat.example.org",
        "ftp://chat.example.org",
        "http://",
        "http://[::1",
        "http://host:99999",
        "http://user:secret@host",
        "http://host/?secret",
        "http://host/#secret",
        "http://host/a b",
    ],
)
def test_an_unusable_url_stops_the_start_without_being_repeated(url):
    with pytest.raises(ConfigError) as error:
        Settings.from_env({"AUTH_BACKEND": "rocketchat", "ROCKETCHAT_URL": url})
    assert str(error.value.code).startswith("push-token-registry: ROCKETCHAT_URL must be ")
    assert "secret" not in str(error.value.code)


def test_the_backend_needs_a_url():
    with pytest.raises(ConfigError) as error:
        Settings.from_env({"AUTH_BACKEND": "rocketchat"})
    assert "ROCKETCHAT_URL is not set" in str(error.value.code)
    with pytest.raises(ConfigError):
        Settings.from_env({"AUTH_BACKEND": "ldap"})
