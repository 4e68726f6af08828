"""Rocket.Chat decides, and fails under load: gunicorn with two workers, and steady clients."""

import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPConnection

import pytest

from tests.support.chat import FAULTS, chat, honest
from tests.support.factories import Caller
from tests.support.live import free_port, serve
from tests.support.load import Client, load
from tests.support.patience import keeps, seconds, wait_until
from tests.support.proxy import certify

RECHECK, GRACE = 3600, 3600
HOW_OLD = {"fresh": 0, "in grace": RECHECK + 60, "lapsed": RECHECK + GRACE + 60}


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


@pytest.fixture
def port():
    return free_port()


@pytest.fixture
def environ(port):
    return {"ROCKETCHAT_URL": f"http://127.0.0.1:{port}"}


@pytest.fixture
def judged(database_url, environ, log):
    """The service, for which whoever listens on that port decides."""
    settings = {
        "AUTH_BACKEND": "rocketchat",
        "ROCKETCHAT_CHECKS_PER_MINUTE": "1000000",
        "ROCKETCHAT_TIMEOUT": "1",
        "ROCKETCHAT_RECHECK_SECONDS": str(RECHECK),
        "ROCKETCHAT_GRACE_SECONDS": str(GRACE),
        "LOG_LEVEL": "info",
        **environ,
    }
    with serve(database_url, log=log, workers=2, **settings) as live:
        yield live


@pytest.fixture
def groups(database):
    """Callers whom Rocket.Chat confirmed some time ago, by how long ago."""
    made = {}
    for name, age in HOW_OLD.items():
        made[name] = [database.sign_in(f"{name}-{number}") for number in range(6)]
        database.execute(
            "UPDATE user_sessions SET verified_at = now() - %s * interval '1 second'"
            " WHERE user_id LIKE %s",
            *(age, f"{name}-%"),
        )
    return made


def everybody(groups):
    return {one.auth_token: one.user_id for callers in groups.values() for one in callers}


def register(client):
    """Register once over a connection of its own; return the status."""
    connection = HTTPConnection(client.address, timeout=60)
    try:
        return client.register(connection)
    finally:
        connection.close()


def assert_no_secret(log, secrets):
    text = log.read_text()
    assert "Rocket.Chat" in text
    assert not [secret for secret in secrets if secret in text]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["nobody", "hang", "unavailable", "html_401", "trickle_head"])
def test_an_outage_ends_for_whom_it_must_and_is_over_without_a_restart(
    judged, port, groups, fault, log
):
    address = f"127.0.0.1:{judged.port}"
    with ExitStack() as stack:
        if fault != "nobody":
            server = stack.enter_context(chat(port))
            server.fault = FAULTS[fault]
        loads = {
            name: stack.enter_context(load(address, callers, 0.1))
            for name, callers in groups.items()
        }
        time.sleep(2)  # a question a second finds out whether it is back
        for one in loads.values():
            one.each_again(5)
        statuses = {name: set(one.statuses()) for name, one in loads.items()}
        assert statuses == {"fresh": {200}, "in grace": {200}, "lapsed": {503}}
        assert loads["in grace"].slowest() < 3 + loads["fresh"].slowest()  # of a busy machine
        # Who needs not be asked about waits for nobody.
        assert loads["fresh"].percentile(0.9, 0) < 1
        if fault == "nobody":
            server = stack.enter_context(chat(port))
        assert not server.asked.keys() & {one.auth_token for one in groups["fresh"]}
        server.signed_in = everybody(groups)
        server.fault = honest
        for client in loads["lapsed"].clients:
            wait_until(lambda c=client: c.acknowledged, 20)
        # In either worker: each asks by itself whether it is back.
        wait_until(lambda: loads["lapsed"].each_again(5).keys() == {200})
        for one in loads.values():
            assert one.each_again(5).keys() == {200}
    # Everybody was confirmed once, in either worker that had them wait.
    assert server.asked.keys() >= {one.auth_token for one in groups["lapsed"]}
    assert_no_secret(log, everybody(groups))


class TestPatience:
    """However long an answer takes."""

    @pytest.fixture
    def environ(self, environ):
        return {**environ, "ROCKETCHAT_TIMEOUT": "20", "REQUEST_DEADLINE": "60"}

    def test_a_wave_of_denials_ends_the_sessions_with_their_registrations(
        self, judged, port, groups, database
    ):
        with chat(port) as server, ExitStack() as stack:
            server.signed_in = everybody(groups)
            loads = [
                stack.enter_context(load(f"127.0.0.1:{judged.port}", callers, 0.05))
                for callers in groups.values()
            ]
            for one in loads:
                one.first_success(time.monotonic())
                one.each_again(5)
            server.signed_in = {}
            database.execute("UPDATE user_sessions SET verified_at = now() - interval '1 day'")
            for one in loads:
                wait_until(lambda one=one: one.each_again(2).keys() == {401})
            for one in loads:
                assert one.each_again(5).keys() == {401}
                assert set(one.statuses()) == {200, 401}
        assert database.rows("SELECT FROM user_sessions") == database.push_tokens() == []

    def test_a_herd_with_the_same_unknown_credentials_asks_once_a_worker(self, judged, port):
        carol = Caller("carol", secrets.token_urlsafe(32))

        def slow(handler):
            time.sleep(0.5)
            honest(handler)

        with chat(port) as server, ThreadPoolExecutor(50) as pool:
            server.signed_in[carol.auth_token] = "carol"
            server.fault = slow
            clients = [Client(f"127.0.0.1:{judged.port}", carol, 0) for _ in range(50)]
            assert set(pool.map(register, clients)) == {200}
        assert 1 <= server.asked[carol.auth_token] <= 2


class TestTls:
    """The same under TLS, where bytes may wait in the library's buffer."""

    @pytest.fixture
    def environ(self, port, tmp_path):
        certify(tmp_path)
        url = f"https://127.0.0.1:{port}"
        return {"ROCKETCHAT_URL": url, "SSL_CERT_FILE": str(tmp_path / "fullchain.pem")}

    @pytest.mark.slow
    def test_it_is_asked_over_tls_and_given_up_in_time(self, judged, port, tmp_path):
        carol = Caller("carol", secrets.token_urlsafe(32))
        client = Client(f"127.0.0.1:{judged.port}", carol, 0)

        def refused() -> None:
            assert register(client) == 503

        with chat(port) as server:
            server.encrypt(tmp_path / "fullchain.pem", tmp_path / "privkey.pem")
            server.signed_in[carol.auth_token] = "carol"
            for fault in ("trickle_head", "trickle_body", "hang", "drop"):
                server.fault = FAULTS[fault]
                keeps(2.5, lambda: seconds(refused))
                time.sleep(1.1)
            server.fault = honest
            wait_until(lambda: register(client) == 200)  # one worker may still be at rest
            assert server.asked[carol.auth_token] >= 4
