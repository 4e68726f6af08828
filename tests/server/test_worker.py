"""gunicorn's workers, live: what signals do, how a worker ends, who waits for whom."""

import json
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from tests.support.factories import body
from tests.support.live import Live, ask, family, serve
from tests.support.load import load
from tests.support.patience import keeps, seconds, wait_until

URL = "/api/v1/push.token"
TIMEOUT = 10.0
TOO_LONG = 20  # seconds: what gunicorn waits for before it kills a worker is 30


def post(live: Live, caller, **fields: object) -> dict[str, object]:
    status, _, said = ask(live, URL, body(**fields), **caller.headers)
    assert status == 200, said
    return json.loads(said)


def workers(live: Live) -> set[int]:
    """Return the process ids of the workers that there are now."""
    return set(family(live.process.pid)[1:])


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_clients_that_send_a_byte_and_stop_keep_nobody_waiting(live, alice):
    with ExitStack() as stack:
        for _ in range(64):
            client = socket.create_connection(("127.0.0.1", live.port))
            stack.enter_context(client)
            client.sendall(b"P")

        def post_twenty() -> None:
            for number in range(20):
                post(live, alice, value=f"v{number}")

        keeps(5, lambda: seconds(post_twenty))


def test_two_instances_run_side_by_side(database_url, live, alice):
    with serve(database_url) as other:
        assert post(other, alice)["result"]["_id"] == post(live, alice)["result"]["_id"]


def test_a_worker_that_is_killed_is_replaced(database_url, alice):
    with serve(database_url) as live:
        post(live, alice)
        (worker,) = workers(live)
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: is_gone(worker) and live.says_yes("/readyz"))
        assert post(live, alice)["success"]


def test_hup_replaces_the_workers_and_fails_no_request(database_url, database):
    with serve(database_url, workers=2) as live:
        before = workers(live)
        callers = [database.sign_in(f"u{number}") for number in range(8)]
        with load(f"127.0.0.1:{live.port}", callers, pace=0.01) as clients:
            clients.until_acknowledged(100)
            live.process.send_signal(signal.SIGHUP)
            wait_until(lambda: not before & workers(live) and len(workers(live)) == 2)
            clients.each_again(3)
        assert not clients.failures()


@pytest.mark.slow
@pytest.mark.alone
def test_a_worker_ends_in_time_at_whatever_moment_it_is_told(database_url):
    """Also in the instants after its fork, when gunicorn's handlers were the master's."""
    with serve(database_url) as live:

        def end_one_of_age(age: float) -> float:
            before = workers(live)
            for pid in before:
                with suppress(ProcessLookupError):  # the last one that was told
                    os.kill(pid, signal.SIGKILL)
            wait_until(lambda: workers(live) - before)
            (worker,) = workers(live) - before
            time.sleep(age)
            os.kill(worker, signal.SIGTERM)
            start = time.monotonic()
            wait_until(lambda: is_gone(worker), TOO_LONG)
            return time.monotonic() - start

        for number in range(12):
            keeps(2, lambda n=number: end_one_of_age(n * 0.04))  # through all of the start
        wait_until(lambda: live.says_yes("/readyz"))


@pytest.mark.slow
def test_a_worker_that_is_told_to_end_cleans_up(database_url, tmp_path):
    folder, log = tmp_path / "ended", tmp_path / "log"
    folder.mkdir()
    ended = {"PUSH_TOKENS_ENDED": str(folder)}
    with serve(database_url, "tests.support.inspected:app", log=log, **ended) as live:
        told = set()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            (worker,) = live.workers() - told
            os.kill(worker, number)
            told.add(worker)
            wait_until(lambda one=worker: is_gone(one) and live.says_yes("/readyz"))
            assert {path.name for path in folder.iterdir()} == set(map(str, told)), number
    assert "ERROR" not in log.read_text()


@pytest.mark.slow
@pytest.mark.alone
def test_the_service_ends_at_once_when_nothing_waits(database_url, alice):
    def end() -> float:
        with serve(database_url, workers=2) as live:
            post(live, alice)
            idle = socket.create_connection(("127.0.0.1", live.port))
            stalled = socket.create_connection(("127.0.0.1", live.port))
            stalled.sendall(b"POST /api/v1/logout HTTP/1.1\r\nContent-Length: 9\r\n\r\nx")
            time.sleep(0.1)
            start = time.monotonic()
            live.process.send_signal(signal.SIGTERM)
            assert live.process.wait(60) == 0
            took = time.monotonic() - start
            idle.close()
            stalled.close()
        return took

    keeps(3, end)


def test_workers_end_with_their_master(database_url):
    with serve(database_url, workers=2) as live:
        before = workers(live)
        live.process.kill()
        live.process.wait(60)
        wait_until(lambda: all(map(is_gone, before)))
        live.process.returncode = 0  # as `serve` expects


@pytest.mark.slow
def test_workers_are_recycled_and_no_request_fails(database_url, database, tmp_path):
    settings = tmp_path / "recycling.py"
    settings.write_text(
        "from app.gunicorn_conf import *\nmax_requests, max_requests_jitter = 200, 50\n"
    )
    callers = [database.sign_in(f"u{number}") for number in range(8)]
    with serve(database_url, workers=2, config=str(settings)) as live:
        before = workers(live)
        with load(f"127.0.0.1:{live.port}", callers, pace=0.01) as clients:
            wait_until(lambda: not before & workers(live))
        assert not clients.failures()


def test_no_header_says_where_a_request_goes(live):
    """They are a proxy's to say, and this service asks none of them."""
    spoofed = "Script_Name: /x\r\nScript-Name: /x\r\nX-Forwarded-Proto: https\r\nPath_Info: /x\r\n"
    request = f"GET /healthz HTTP/1.1\r\nHost: t\r\nConnection: close\r\n{spoofed}\r\n"
    answer = live.exchange(request.encode())
    assert answer.startswith(b"HTTP/1.1 200"), answer


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_an_answer_says_when_it_was_made(live, path):

    def difference() -> float:
        _, headers, _ = ask(live, path, method="GET")
        said = parsedate_to_datetime(headers["Date"])
        return abs((datetime.now(UTC) - said).total_seconds())

    keeps(3, difference)


@pytest.mark.slow
@pytest.mark.alone
class TestThreads:
    """What Flask answers waits for a thread; the event loop, health and metrics wait for none."""

    @pytest.fixture
    def pool(self):
        with ThreadPoolExecutor(10) as pool:
            yield pool

    @pytest.fixture
    def held(self, database_url, database, alice, bob, pool):
        """A service all of whose threads wait for a lock on the session of alice."""
        patience = ("DATABASE_LOCK_TIMEOUT", "DATABASE_STATEMENT_TIMEOUT", "REQUEST_DEADLINE")
        settings = {"DATABASE_POOL_SIZE": "2", **dict.fromkeys(patience, "120")}
        with serve(database_url, **settings) as live:
            post(live, bob)
            with database.connection.transaction():
                database.execute("SELECT 1 FROM user_sessions WHERE user_id = 'alice' FOR UPDATE")
                logouts = [
                    pool.submit(ask, live, "/api/v1/logout", {}, timeout=200, **alice.headers)
                    for _ in range(10)
                ]
                time.sleep(0.5)
                yield live
            statuses = [logout.result()[0] for logout in logouts]
        assert statuses.count(200) >= 1
        assert set(statuses) <= {200, 401}

    @pytest.mark.parametrize(("path", "bound"), [("/healthz", 0.25), ("/metrics", 1)])
    def test_health_and_metrics_are_answered(self, held, path, bound):
        def look() -> None:
            assert ask(held, path, method="GET")[0] == 200

        keeps(bound, lambda: seconds(look))

    def test_others_register(self, held, bob):
        for number in range(20):
            keeps(0.25, lambda n=number: seconds(lambda: post(held, bob, value=f"v{n}")))

    def test_a_full_queue_is_503_at_once_and_says_when(self, held, alice):
        named = "".join(f"{name}: {value}\r\n" for name, value in alice.headers.items())
        logout = f"POST /api/v1/logout HTTP/1.1\r\nHost: x\r\n{named}Connection: close\r\n\r\n"
        with ExitStack() as stack:

            def send() -> socket.socket:
                client = socket.create_connection(("127.0.0.1", held.port), timeout=TIMEOUT)
                stack.enter_context(client)
                client.sendall(logout.encode())
                return client

            for _ in range(600):
                send()

            def refused() -> float:
                begin = time.monotonic()
                try:
                    head, _, said = send().makefile("rb").read().partition(b"\r\n\r\n")
                except TimeoutError:  # it got in before those who are still on their way
                    return TIMEOUT
                assert head.startswith(b"HTTP/1.1 503 ")
                assert b"\r\nretry-after: 1\r\n" in head
                assert json.loads(said) == {"success": False, "error": "Service unavailable"}
                return time.monotonic() - begin

            keeps(1, refused)
