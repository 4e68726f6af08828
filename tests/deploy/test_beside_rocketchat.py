"""deploy/nginx-beside-rocketchat.conf with a real nginx, gunicorn and a server for Rocket.Chat."""

import http.client
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.activation import SocketUnit
from tests.support.factories import Caller, body
from tests.support.parts import part
from tests.support.proxy import NO_LIMITS, Proxy, nginx
from tests.support.rocketchat import RocketChat, rocketchat

PATH = "/api/v1/push.token"
LOGOUT, OTHERS = "/api/v1/logout", "/api/v1/users.removeOtherTokens"
PAGE = "https://app.example.org"
OTHERS_OF_PAGES = "/api/v1/users.logoutOtherClients"
# Tried with the routers themselves: Hono 4.13 (Rocket.Chat 7.7 and later) serves the first three,
# connect-route 0.1.5 (before) also what follows.
FORMS = ("{}", "{}?a=b", "{}%6F", "{}/", "{}//", "/{}", "//{}/", "{}%20")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    part("nginx")
    with tempfile.TemporaryDirectory(prefix="beside-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def chat() -> Iterator[RocketChat]:
    with rocketchat() as server:
        yield server


@pytest.fixture(scope="module")
def site(database_url: str, folder: Path, chat: RocketChat) -> Iterator[Proxy]:
    """Rocket.Chat's address, with the registry beside it."""
    unit = SocketUnit(folder / "registry.sock")
    unit.start(database_url, CORS_ORIGINS=PAGE)
    port = chat.server_address[1]
    with nginx(folder / "n", unit.path, rocketchat=port, changes=NO_LIMITS) as proxy:
        yield proxy
    unit.close()


def ask(
    proxy: Proxy, method: str, path: str, fields: object = None, caller: Caller | None = None
) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.chat, timeout=60)
    headers = {"Content-Type": "application/json", **(caller.headers if caller else {})}
    content = json.dumps(fields) if fields is not None else None
    connection.request(method, path, content, headers)
    answer = connection.getresponse()
    found = answer.status, answer.read().decode()
    connection.close()
    return found


def form(how: str, path: str) -> str:
    """Return a path in another form that Rocket.Chat serves."""
    if how == "{}%6F":
        return path.replace("o", "%6F")
    return how.format(path)


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_only_push_token_comes_here(site, chat, alice):
    before = len(chat.asked_for)
    for how in FORMS:
        assert '"success":true' in ask(site, "POST", form(how, PATH), body(), alice)[1], how
    assert ask(site, "DELETE", PATH, {"token": "none"}, alice)[0] == 404
    assert ask(site, "POST", PATH, body(padding="x" * 70000), alice)[0] == 413
    assert chat.asked_for[before:] == []
    others = ["/", "/api/v1/push.tokens.lookup", "/metrics", "/api/v1/sessions.put"]
    others += ["/push_token_error", f"/push_token_copy{LOGOUT}", "/api/v1/push.tokenx"]
    for path in others:
        ask(site, "GET", path)
    internal = [path for path in others if path.startswith("/push_token")]
    assert [path for _, path in chat.asked_for[before:]] == [
        p for p in others if p not in internal
    ]


@pytest.mark.parametrize("port", ["chat", "public"])
def test_a_page_of_another_origin_gets_through(site, alice, port):
    """A preflight, a registration and a refusal, with the registry's headers."""
    connection = http.client.HTTPConnection("127.0.0.1", getattr(site, port), timeout=60)
    asks = {"Access-Control-Request-Method": "POST"}
    for method, headers, status in (
        ("OPTIONS", asks, 204),
        ("POST", alice.headers | {"Content-Type": "application/json"}, 200),
        ("POST", {}, 401),
    ):
        content = json.dumps(body()) if method == "POST" else None
        connection.request(method, PATH, content, headers | {"Origin": PAGE})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status
        assert answer.headers.get_all("Access-Control-Allow-Origin") == [PAGE]
    connection.close()


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_a_logout_ends_the_session_here_too(site, chat, database, method):
    for how in FORMS:
        caller = database.sign_in("alice")
        assert ask(site, "POST", PATH, body(), caller)[0] == 200
        ask(site, method, form(how, LOGOUT), None if method == "HEAD" else {"a": 1}, caller)
        assert chat.asked_for[-1] == (method, form(how, LOGOUT)), (
            "it goes to Rocket.Chat as it came"
        )
        wait_for(lambda: not database.push_tokens())
        assert database.rows("SELECT 1 FROM user_sessions") == []


@pytest.mark.parametrize("path", [OTHERS, OTHERS_OF_PAGES])
def test_a_logout_elsewhere_ends_the_others_here_too(site, chat, database, path):
    for how in FORMS:
        caller, other = database.sign_in("alice"), database.sign_in("alice")
        assert ask(site, "POST", PATH, body(value="here"), caller)[0] == 200
        assert ask(site, "POST", PATH, body(value="there"), other)[0] == 200
        ask(site, "POST", form(how, path), None, caller)
        assert chat.asked_for[-1] == ("POST", form(how, path))
        wait_for(lambda: len(database.push_tokens()) == 1)
        assert database.push_tokens()[0]["token"] == "here"
        assert len(database.rows("SELECT 1 FROM user_sessions")) == 1
        database.forget_everyone()


@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", LOGOUT), ("DELETE", LOGOUT), ("GET", OTHERS), ("POST", f"{LOGOUT}x")],
)
def test_what_is_no_sign_out_there_is_none_here(site, alice, database, method, path):
    assert ask(site, "POST", PATH, body(), alice)[0] == 200
    ask(site, method, path, {}, alice)
    # A copy is complete before the next request on its connection; here it has one of its own.
    time.sleep(0.2)
    assert len(database.push_tokens()) == 1


def test_somebody_elses_token_signs_nobody_out(site, alice, bob, database):
    assert ask(site, "POST", PATH, body(), alice)[0] == 200
    ask(site, "POST", LOGOUT, {}, Caller("alice", bob.auth_token))
    ask(site, "POST", OTHERS, {}, Caller("alice", bob.auth_token))
    time.sleep(0.2)
    assert len(database.push_tokens()) == 1


def test_rocketchat_answers_a_logout_when_the_registry_is_away(folder, chat, alice):
    port = chat.server_address[1]
    with nginx(folder / "gone", folder / "gone.sock", rocketchat=port) as proxy:
        assert ask(proxy, "POST", LOGOUT, {"a": 1}, alice)[0] == 401
        assert '"success":false' in ask(proxy, "POST", PATH, body(), alice)[1]


@pytest.mark.parametrize("path", [LOGOUT, OTHERS])
def test_a_flood_of_sign_outs_gets_429(folder, chat, path):
    port, before = chat.server_address[1], len(chat.asked_for)
    name = f"flood{path.count('.')}"
    with nginx(folder / name, folder / "gone.sock", rocketchat=port) as proxy:
        caller = Caller("alice", "x" * 43)
        answers = [ask(proxy, "POST", path, None, caller) for _ in range(30)]
    assert [status for status, _ in answers[:21]] == [401] * 21
    assert answers[-1][0] == 429
    assert "too many requests" in answers[-1][1]
    assert len(chat.asked_for) - before < 30
