"""`CORS_ORIGINS`: which pages of other origins may make the apps' calls."""

import functools
import http.server
import json
import threading
from pathlib import Path

import pytest

from app.config import ROOT, ConfigError, Settings
from tests.support.chromium import browse
from tests.support.factories import body
from tests.support.live import serve
from tests.support.parts import part

URL = "/api/v1/push.token"
MINE, OTHER = "https://app.example.org", "https://other.example.org"
APPS = {
    URL: "DELETE, GET, POST",
    "/api/v1/logout": "GET, POST",
    "/api/v1/users.removeOtherTokens": "POST",
}


def told(answer) -> dict[str, str]:
    """Return what an answer says to a browser about origins."""
    return {
        name: value
        for name, value in answer.headers
        if name.startswith("Access-Control") or name == "Vary"
    }


@pytest.fixture
def client_of(new_app, database_url):
    return lambda *origins: new_app(database_url=database_url, cors_origins=origins).test_client()


def ask(client, origin: str, path: str = URL, method: str = "OPTIONS", **headers: str):
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    if method != "OPTIONS":
        del asked["Access-Control-Request-Method"]
    return client.open(path, method=method, headers=asked | headers, json={})


@pytest.mark.parametrize("path", APPS)
def test_a_preflight_of_a_named_origin_is_answered(client_of, path):
    answer = ask(client_of(MINE, "capacitor://localhost"), MINE, path)
    assert (answer.status_code, answer.data) == (204, b"")
    assert told(answer) == {
        "Vary": "Origin",
        "Access-Control-Allow-Origin": MINE,
        "Access-Control-Allow-Methods": APPS[path],
        "Access-Control-Allow-Headers": (
            "Content-Type, X-Auth-Token, X-Request-Id, X-User-Id, "
            "Accept, Authorization, Origin, X-Requested-With, X-Visitor-Token"
        ),
        "Access-Control-Expose-Headers": "Retry-After, X-Request-Id",
        "Access-Control-Max-Age": "7200",
    }


def test_a_preflight_is_logged_as_a_call_of_its_path(client_of, logged_here, caplog):
    caplog.set_level("INFO", "app.requests")
    client = client_of(MINE)
    ask(client, MINE)
    ask(client, OTHER)
    ask(client, MINE, "/made/up")
    ask(client, MINE, method="SECRET")
    assert [(line["method"], line["route"], line["status"]) for line in logged_here] == [
        ("OPTIONS", URL, 204),
        ("OPTIONS", "unknown", 405),
        ("OPTIONS", "unknown", 404),
        ("unknown", "unknown", 405),
    ]


def test_any_origin_may_be_let_in(client_of):
    answer = told(ask(client_of("*"), OTHER))
    assert answer["Access-Control-Allow-Origin"] == "*"
    assert "Vary" not in answer


@pytest.mark.parametrize("origin", [OTHER, "null", "", f"{MINE}.evil.example", MINE.upper()])
def test_another_origin_gets_nothing_but_vary(client_of, origin):
    client = client_of(MINE)
    preflight = ask(client, origin)
    assert (preflight.status_code, preflight.json["error"]) == (405, "Method not allowed")
    for answer in (preflight, ask(client, origin, method="POST")):
        assert told(answer) == {"Vary": "Origin"}


def test_errors_and_answers_have_the_headers_too(client_of, alice):
    client = client_of(MINE)
    wanted = {
        "Vary": "Origin",
        "Access-Control-Allow-Origin": MINE,
        "Access-Control-Expose-Headers": "Retry-After, X-Request-Id",
    }
    for method, path, status in [
        ("POST", URL, 400),
        ("GET", URL, 200),
        ("PUT", URL, 405),
        ("DELETE", f"{URL}?token=none", 404),
        ("GET", "/api/v1/logout", 200),
        ("GET", URL, 401),
    ]:
        answer = ask(client, MINE, path, method, **alice.headers)
        assert (answer.status_code, told(answer)) == (status, wanted)


@pytest.mark.parametrize("path", ["/api/v1/push.tokens.lookup", "/readyz", "/healthz", "/unknown"])
def test_services_calls_and_the_rest_are_for_no_page(client_of, path):
    client = client_of("*")
    assert ask(client, MINE, path).status_code in (404, 405)
    for method in ("OPTIONS", "GET", "POST"):
        assert told(ask(client, MINE, path, method)) == {}


@pytest.mark.parametrize("path", APPS)
def test_without_the_setting_nothing_is_said(client, path):
    assert ask(client, MINE, path).status_code == 405
    for method in ("OPTIONS", "GET", "POST"):
        assert told(ask(client, MINE, path, method)) == {}


def test_an_options_that_is_no_preflight_is_a_wrong_method(client_of):
    answer = client_of(MINE).options(URL, headers={"Origin": MINE})
    assert (answer.status_code, answer.json["success"]) == (405, False)


def test_origins_are_listed_as_browsers_write_them():
    def origins(text: str) -> tuple[str, ...] | None:
        return Settings.from_env({"CORS_ORIGINS": text}).cors_origins

    assert origins("") is None
    assert origins("*") == ("*",)
    listed = f"{MINE}, http://localhost:8100 capacitor://localhost,null,http://[::1]:80"
    assert origins(listed) == tuple(listed.replace(",", " ").split())
    for wrong in ("app.example.org", f"{MINE}/", f"{MINE}/x", MINE.upper(), "https://*.x.org"):
        with pytest.raises(ConfigError) as error:
            origins(f"{MINE}, {wrong}")
        assert f"not {wrong!r}" in str(error.value.code)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves the examples as another origin, and a page to run them in."""

    extensions_map = {".mjs": "text/javascript", ".html": "text/html", "": "text/plain"}  # noqa: RUF012

    def log_message(self, *arguments: object) -> None:
        pass


SCRIPT = """
window.done = null;
(async () => {{
  const {{ Device, Registry }} = await import("/push_token.mjs");
  const registry = new Registry({url}, {user}, {token});
  const said = {{}};
  said.registered = await registry.register("gcm", "of a page", "chat.example", "browser");
  said.listed = (await registry.list()).length;
  said.removed = [await registry.remove("of a page"), await registry.remove("of a page")];
  await new Device(registry, "chat.example", "browser").register("gcm", "again");
  said.told = await new Device(registry, "chat.example").signOut(async () => {{}});
  said.after = await registry.list().catch((error) => error.constructor.name);
  window.done = JSON.stringify(said);
}})().catch((error) => {{ window.done = JSON.stringify(String(error)); }});
"""


@pytest.fixture
def page_url():
    """The address of a page of another origin, beside the examples."""
    handler = functools.partial(Quiet, directory=str(ROOT / "examples" / "apps"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_the_example_runs_in_a_browser_on_a_page_of_another_origin(
    page_url, database_url, alice, database, tmp_path: Path
):
    with (
        serve(database_url, CORS_ORIGINS=page_url) as live,
        browse(part("chromium"), tmp_path) as page,
    ):
        page.send("Page.navigate", url=f"{page_url}/push_token.sh")
        page.wait("location.origin !== 'null' && document.readyState === 'complete'")
        values = {"url": live.url, "user": alice.user_id, "token": alice.auth_token}
        page.run(SCRIPT.format(**{name: json.dumps(value) for name, value in values.items()}))
        said = json.loads(page.wait("window.done"))
        assert said["registered"]["_id"] == "browser", said
        assert said == {
            "registered": said["registered"],
            "listed": 1,
            "removed": [True, False],
            "told": True,
            "after": "SignedOutError",
        }
    assert database.push_tokens() == []
    assert body()["appName"] == said["registered"]["appName"]
