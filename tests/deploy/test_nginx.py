"""deploy/nginx.conf with a real nginx, TLS and gunicorn behind a unix socket."""

import http.client
import json
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.activation import SocketUnit
from tests.support.factories import body
from tests.support.parts import part
from tests.support.proxy import BESIDE, NO_LIMITS, SITE, Proxy, nginx

PATH = "/api/v1/push.token"
JSON = {"Content-Type": "application/json"}
CLOSED = [
    "/metrics",
    "/readyz",
    "/api/v1/push.tokens.lookup",
    "/api/v1/push.tokens.list",
    "/api/v1/push.tokens.feedback",
    "/api/v1/sessions.put",
    "/api/v1/sessions.revoke",
]
DETOURS = [
    "/api/v1//push.tokens.lookup",
    "//metrics",
    "/api/v1/push.token/../push.tokens.lookup",
    "/docs/../metrics",
    "/docs/%2e%2e/metrics",
    "/docs/..%2fmetrics",
    "/api/v1/push%2Etokens.lookup",
    "/api/v1/push.token%3f/../push.tokens.lookup",
    "/%6detrics",
]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    part("nginx")
    with tempfile.TemporaryDirectory(prefix="nginx-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def unit(database_url: str, folder: Path) -> Iterator[SocketUnit]:
    unit = SocketUnit(folder / "registry.sock")
    unit.start(database_url)
    yield unit
    unit.close()


@pytest.fixture(scope="module")
def site(unit: SocketUnit, folder: Path) -> Iterator[Proxy]:
    """The site as it is, limits and TLS included."""
    with nginx(folder / "site", unit.path, tls=True) as proxy:
        yield proxy


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    text: str

    @property
    def json(self) -> dict[str, object]:
        assert self.headers["Content-Type"] == "application/json", self.text
        return json.loads(self.text)


def ask(
    site: Proxy, method: str, path: str, fields: object = None, address: str = "", **headers: str
) -> Answer:
    """Call through TLS, checking the certificate; `address` is where the call comes from."""
    context = ssl.create_default_context(cafile=site.folder / "fullchain.pem")
    connection = http.client.HTTPSConnection("127.0.0.1", site.public, context=context, timeout=60)
    payload = json.dumps(fields).encode() if fields is not None else None
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if address:
        named["X-Test-Address"] = address
    try:
        connection.request(method, path, payload, JSON | named)
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read().decode())
    finally:
        connection.close()


def said(caller) -> dict[str, str]:
    return {"X_User_Id": caller.user_id, "X_Auth_Token": caller.auth_token}


def test_the_calls_of_the_apps_pass(site, alice):
    answer = ask(site, "POST", PATH, body(), **said(alice))
    assert (answer.status, answer.json["success"]) == (200, True)
    assert len(ask(site, "GET", PATH, **said(alice)).json["tokens"]) == 1
    assert ask(site, "DELETE", f"{PATH}?token={body()['value']}", **said(alice)).status == 200
    assert ask(site, "POST", "/api/v1/logout", **said(alice)).json["status"] == "success"
    assert ask(site, "POST", PATH, body(), **said(alice)).json["status"] == "error"
    assert ask(site, "GET", "/healthz").json["status"] == "ok"


@pytest.mark.parametrize("path", CLOSED + DETOURS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_is_not_for_apps_is_closed(site, issue, path, method):
    key = issue("lookup", "feedback", "sessions")
    answer = ask(site, method, path, {"userIds": ["x"]}, **key)
    assert (answer.status, answer.json["success"]) == (404, False)


@pytest.mark.parametrize("path", ["/readyz", "/healthz"])
def test_and_open_on_the_inner_address(site, path):
    connection = http.client.HTTPConnection("127.0.0.1", site.internal, timeout=60)
    connection.request("GET", path)
    assert connection.getresponse().status == 200
    connection.close()


def test_services_look_up_and_send_large_bodies_on_the_inner_address(site, issue):
    connection = http.client.HTTPConnection("127.0.0.1", site.internal, timeout=60)
    fields = {"userIds": [f"user{n:0200}" for n in range(1000)]}
    sent = json.dumps(fields)
    assert len(sent) > 64 * 1024
    connection.request("POST", "/api/v1/push.tokens.lookup", sent, JSON | issue("lookup"))
    answer = connection.getresponse()
    assert (answer.status, json.load(answer)) == (200, {"tokens": [], "success": True})
    connection.close()


def talk(site: Proxy, request: bytes) -> bytes:
    """Send bytes through TLS as they are; return all that came back."""
    context = ssl.create_default_context(cafile=site.folder / "fullchain.pem")
    with (
        socket.create_connection(("127.0.0.1", site.public), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as client,
    ):
        client.sendall(request)
        answer = b""
        while received := client.recv(65536):
            answer += received
    return answer


def read(answer: bytes) -> tuple[int, dict[str, object]]:
    head, _, content = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head.lower(), answer
    return int(head.split()[1]), json.loads(content)


REFUSED = {
    "body": (413, b"POST %s HTTP/1.1\r\nHost: t\r\nContent-Length: 65537\r\n\r\n" % PATH.encode()),
    "path": (414, b"GET /%s HTTP/1.1\r\nHost: t\r\n\r\n" % (b"x" * 9000)),
    "header": (431, b"GET / HTTP/1.1\r\nHost: t\r\nX-Long: %s\r\n\r\n" % (b"x" * 9000)),
    "headers": (
        431,
        b"GET / HTTP/1.1\r\nHost: t\r\n%s\r\n" % (b"X-A: %s\r\n" % (b"x" * 7000) * 6),
    ),
    "length": (400, b"POST %s HTTP/1.1\r\nHost: t\r\nContent-Length: x\r\n\r\n" % PATH.encode()),
    "host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "line": (400, b"nonsense\r\n\r\n"),
    "method": (400, b"get / HTTP/1.1\r\nHost: t\r\n\r\n"),
    "trace": (405, b"TRACE / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"),
    "version": (400, b"GET / HTTP/3.0\r\nHost: t\r\n\r\n"),
    "encoding": (400, b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: gzip\r\n\r\n"),
    "unknown": (404, b"GET /x HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_nginx_refuses_is_our_json(site, name):
    status, request = REFUSED[name]
    answered, said = read(talk(site, request))
    assert answered == status
    assert said.keys() == {"success", "error"}
    assert said["success"] is False


def test_http_on_the_tls_port_is_our_json(site):
    with socket.create_connection(("127.0.0.1", site.public), timeout=60) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        answer = b""
        while received := client.recv(65536):
            answer += received
    assert read(answer)[0] == 400


def test_the_largest_body_that_the_registry_takes_passes(site, alice):
    fields = body(padding="")
    fields["padding"] = "x" * (64 * 1024 - len(json.dumps(fields)))
    assert len(json.dumps(fields)) == 65536
    assert ask(site, "POST", PATH, fields, **said(alice)).status == 200
    fields["padding"] += "x"
    assert ask(site, "POST", PATH, fields, **said(alice)).status == 413


def test_a_user_who_floods_gets_429_and_others_do_not(site, database, alice, bob):
    home, office = "192.0.2.1", "192.0.2.2"
    answers = [ask(site, "POST", PATH, body(), home, **said(alice)) for _ in range(21)]
    assert [answer.status for answer in answers] == [200] * 21
    while (refused := ask(site, "POST", PATH, body(), home, **said(alice))).status == 200:
        answers.append(refused)  # every two seconds one more may pass
        assert len(answers) < 60
    assert refused.status == 429
    assert refused.headers["Retry-After"] == "2"
    assert refused.json.keys() == {"success", "error"}
    assert "too many requests" in str(refused.json["error"])
    assert ask(site, "POST", PATH, body(value="b"), home, **said(bob)).status == 200
    other = database.sign_in("alice")
    assert ask(site, "POST", PATH, body(value="c"), office, **said(other)).status == 200


@pytest.mark.parametrize(
    "addresses",
    [
        [f"198.51.100.{number}" for number in range(60)],
        [f"2001:db8:{number:x}::1" for number in range(60)],
    ],
)
def test_a_session_that_floods_from_many_addresses_gets_429(site, alice, addresses):
    statuses = [ask(site, "GET", PATH, None, one, **said(alice)).status for one in addresses]
    assert statuses[:21] == [200] * 21
    assert statuses.count(429) > 20


def test_addresses_of_one_ipv6_network_share_a_users_limit(site):
    def status(address: str, auth_token: str) -> int:
        forged = {"X_User_Id": "carol", "X_Auth_Token": auth_token}
        return ask(site, "GET", PATH, None, address, **forged).status

    statuses = [status(f"2001:db8:1:{number:x}::1", str(number)) for number in range(60)]
    assert statuses[:21] == [401] * 21
    assert statuses.count(429) > 20
    assert status("2001:db8:1:100::1", "x") == 401


def test_nobody_uses_up_another_users_share(site, alice):
    for _ in range(30):
        forged = ask(site, "POST", PATH, body(), "192.0.2.3", X_User_Id="alice", X_Auth_Token="x")
    assert forged.status == 429
    assert ask(site, "POST", PATH, body(), "192.0.2.4", **said(alice)).status == 200


@pytest.fixture(scope="module")
def shut(folder: Path) -> Iterator[Proxy]:
    """The site with nobody behind it: it answers faster than any limit of its fills up again."""
    with nginx(folder / "shut", folder / "nobody.sock", tls=True) as proxy:
        yield proxy


def flood(site: Proxy, address: str, count: int) -> int:
    """Send so many requests of as many users at once; return how many got a 429."""
    requests = [
        f"GET {PATH} HTTP/1.1\r\nHost: t\r\nX-Test-Address: {address}\r\nX-User-Id: {number}\r\n"
        f"Connection: {'close' if number == count else 'keep-alive'}\r\n\r\n"
        for number in range(1, count + 1)
    ]
    answers = talk(site, "".join(requests).encode())
    assert answers.count(b"HTTP/1.1 503 ") + answers.count(b"HTTP/1.1 429 ") == count
    return answers.count(b"HTTP/1.1 429 ")


@pytest.mark.parametrize(
    ("address", "same", "other"),
    [
        ("192.0.2.10", "192.0.2.10", "192.0.2.11"),
        ("2001:db8:0:100::1", "2001:db8:0:1ff:ffff::2", "2001:db8:0:200::1"),
    ],
)
def test_an_address_that_floods_gets_429_an_ipv6_network_as_one(shut, address, same, other):
    assert flood(shut, other, 200) == 0
    assert flood(shut, address, 800) > 0
    assert flood(shut, same, 200) > 0


def test_a_request_id_is_passed_on_or_made_and_a_bad_one_replaced(site):
    given = ask(site, "GET", "/x", X_Request_Id="abc-123")
    assert given.headers["X-Request-Id"] == "abc-123"
    bad = ask(site, "GET", "/x", X_Request_Id='a"b{}')
    assert len(bad.headers["X-Request-Id"]) == 32
    assert len(ask(site, "GET", "/x").headers["X-Request-Id"]) == 32


def test_a_body_too_large_is_our_json_over_http_2_as_well(folder):
    with nginx(folder / "h2", folder / "nobody.sock", tls=True) as proxy:
        url = f"https://127.0.0.1:{proxy.public}{PATH}"
        command = [part("curl"), "-sk", "--http2", "-w", "%{http_version} %{http_code}", url]
        command += ["-H", "Expect:", "--data-binary", "@-"]
        said = subprocess.run(command, input=b"x" * 70_000, capture_output=True, check=True).stdout
    assert said == b'{"success":false,"error":"Request entity too large"}2 413'


def test_no_log_has_a_secret(site, alice, issue):
    """Not even where nginx refuses: its own error lines repeat requests with their queries."""
    push_token = "push-token-in-the-query"
    ask(site, "DELETE", f"{PATH}?token={push_token}", **said(alice))
    ask(site, "GET", f"/{'x' * 8000}?token={push_token}", **said(alice))
    for _ in range(30):
        ask(site, "DELETE", f"{PATH}?token={push_token}", address="192.0.2.9", **said(alice))
    ask(site, "POST", PATH, body(value=push_token, padding="x" * 70000), **said(alice))
    key = issue("lookup")["Authorization"]
    ask(site, "POST", "/metrics", {"token": push_token}, Authorization=key)
    deadline = time.monotonic() + 60
    while not all(f'"status":{status}' in site.logs() for status in (404, 413, 429)):
        assert time.monotonic() < deadline, site.logs()
        time.sleep(0.05)
    logs = site.logs()
    for secret in (push_token, alice.auth_token, key.removeprefix("Bearer ")):
        assert secret not in logs
    for line in (site.folder / "push-token-registry.log").read_text().splitlines():
        assert json.loads(line)["status"]


def test_gunicorn_away_is_a_503_that_says_when_to_come_back(folder, alice):
    with nginx(folder / "away", folder / "nobody.sock", tls=True) as site:
        for method, path in (("POST", PATH), ("POST", "/api/v1/logout"), ("GET", "/healthz")):
            answer = ask(site, method, path, body(), **said(alice))
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
            assert answer.json == {"success": False, "error": "Service unavailable"}
        assert ask(site, "DELETE", f"{PATH}?token=PLANTED", **said(alice)).status == 503
    written = [file.read_text(errors="replace") for file in (folder / "away").rglob("*.log")]
    assert any("/api/v1/push.token" in text for text in written)
    assert not any("PLANTED" in text for text in written)


class Flaky(threading.Thread):
    """A registry that takes each request and hangs up, but for the fourth."""

    def __init__(self, path: Path):
        super().__init__(daemon=True)
        self.requests: list[bytes] = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(64)
        self.start()

    def run(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with client:
                self.requests.append(client.recv(65536))
                if len(self.requests) == 4:
                    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")


def test_a_registration_goes_to_the_next_worker_and_a_logout_does_not(folder, alice):
    flaky = Flaky(folder / "flaky.sock")
    try:
        with nginx(folder / "flaky", folder / "flaky.sock", tls=True) as site:
            assert ask(site, "POST", PATH, body(), **said(alice)).status == 200
            assert len(flaky.requests) == 4
            assert all(b'"appName"' in request for request in flaky.requests)
            assert ask(site, "POST", "/api/v1/logout", **said(alice)).status == 503
            assert len(flaky.requests) == 5
            assert ask(site, "GET", PATH, **said(alice)).status == 503
    finally:
        flaky.listener.close()


def test_the_sites_agree_on_what_a_registration_may_cost():
    """The second file repeats the first one's limits and timeouts for push.token."""
    first, second = SITE.read_text(), BESIDE.read_text()
    for line in (
        "limit_req zone=push_token_users burst=20 nodelay;",
        "limit_req zone=push_token_sessions burst=20 nodelay;",
        "limit_req zone=push_token_addresses burst=200 nodelay;",
        "proxy_next_upstream error non_idempotent;",
        "error_page 502         = @push_token_again;",
    ):
        assert line.split() in [found.split() for found in first.splitlines()]
        assert line.split() in [found.split() for found in second.splitlines()]
    assert all(rate in first for rate in NO_LIMITS)
