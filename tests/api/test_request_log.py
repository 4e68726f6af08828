"""What an operator sees of the service: metrics over all workers, a line a request, no secret."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.factories import body
from tests.support.live import Live, ask, serve
from tests.support.patience import wait_until

URL = "/api/v1/push.token"


def samples(live: Live) -> dict[tuple[str, ...], float]:
    """Return the samples by name and the values of their labels."""
    status, headers, text = ask(live, "/metrics", method="GET")
    assert (status, headers["Content-Type"].partition(";")[0]) == (200, "text/plain")
    return {
        (one.name.removeprefix("push_registry_"), *dict(sorted(one.labels.items())).values()): (
            one.value
        )
        for family in text_string_to_metric_families(text)
        for one in family.samples
        if not one.name.endswith("_bucket")
    }


@dataclass(frozen=True)
class Log:
    """What a file was written from some byte on."""

    path: Path
    begin: int = 0

    def read_text(self) -> str:
        return self.path.read_bytes()[self.begin :].decode()


def lines(log: Path | Log) -> list[dict[str, object]]:
    """Return the log's lines, each of which must be a JSON object."""
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.fixture(scope="module")
def live(database_url):
    """A gunicorn of these tests' own: nobody else's requests are in its counts."""
    with serve(database_url, workers=2) as live:
        yield live


@pytest.fixture
def counted(live):
    """A function that returns the samples with what each has grown by during the test."""
    before = samples(live)
    return lambda: {name: value - before.get(name, 0) for name, value in samples(live).items()}


class TestMetrics:
    def test_they_add_up_over_all_workers(self, live, counted, alice, bob, issue):
        for n in range(20):  # each on a connection of its own, so both workers are asked
            ask(live, URL, body(value=f"t{n}"), **alice.headers)
        ask(live, URL, body(value="t0"), **alice.headers)
        ask(live, URL, body(value="t1"), **bob.headers)
        ask(live, URL, body(value="t2", id="device"), **alice.headers)
        ask(live, URL, body(value="t3", id="device3"), **bob.headers)
        ask(live, URL, body(value="t3"), **alice.headers)
        ask(live, URL, body(), **alice.headers | {"X-User-Id": "bob"})
        ask(live, URL, {"token": "t3"}, "DELETE", **alice.headers)
        verdict = {
            "appName": "chat.example",
            "value": "t4",
            "provider": "fcm",
            "status": 404,
            "error": "UNREGISTERED",
            "sentAt": "2099-01-01T00:00:00Z",
        }
        key = issue("feedback", "sessions")
        ask(live, "/api/v1/push.tokens.feedback", {"results": [verdict]}, **key)
        verdict["sentAt"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 2))
        ask(live, "/api/v1/push.tokens.feedback", {"results": [verdict]}, **key)
        ask(live, "/api/v1/logout", method="POST", **bob.headers)
        ask(live, "/api/v1/sessions.revoke", {"userId": "alice"}, **key)
        ask(live, "/nowhere", method="GET")
        requests, removed = "request_duration_seconds_count", "registrations_removed_total"
        expected = {
            (requests, "POST", URL, "200"): 25,
            (requests, "POST", URL, "401"): 1,
            (requests, "DELETE", URL, "200"): 1,
            (requests, "unknown", "unknown", "404"): 1,
            ("registrations_total", "created"): 20,
            ("registrations_total", "refreshed"): 2,
            ("registrations_total", "moved"): 3,
            (removed, "deleted"): 1,
            (removed, "feedback"): 1,
            (removed, "logout"): 1,
            (removed, "revoked"): 17,
            ("group_size_sum",): 26,  # all but the DELETE
        }

        def found() -> dict[tuple[str, ...], float]:
            now = counted()
            return {name: now.get(name, 0) for name in expected}

        with suppress(AssertionError):  # so that what differs is shown
            wait_until(lambda: found() == expected, 60)  # some are counted after the answer
        assert found() == expected
        wait_until(lambda: samples(live)["pool_connections_in_use",] == 0)
        assert samples(live)["pool_connections_limit",] == 10

    def test_a_killed_worker_takes_its_gauges_and_leaves_its_counts(self, live, counted, alice):
        for n in range(10):
            ask(live, URL, body(value=f"t{n}"), **alice.headers)
        deadline = time.monotonic() + 90
        while counted()["registrations_total", "created"] != 10:  # counted after the answer
            assert time.monotonic() < deadline
            time.sleep(0.05)
        killed = live.workers()
        for worker in killed:
            os.kill(worker, signal.SIGKILL)
        while not live.says_yes("/readyz") or not live.is_renewed(killed):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert counted()["registrations_total", "created"] == 10

    def test_commands_leave_nothing_in_the_folder_of_the_workers(self, database_url, tmp_path):
        environ = {
            **os.environ,
            "DATABASE_URL": database_url,
            "PROMETHEUS_MULTIPROC_DIR": str(tmp_path),
        }
        stale = tmp_path / "gauge_livesum_1.db"
        stale.touch()
        command = [sys.executable, "-m", "flask", "sessions", "purge"]
        subprocess.run(command, env=environ, check=True, capture_output=True)
        assert list(tmp_path.iterdir()) == [stale]
        with serve(database_url, PROMETHEUS_MULTIPROC_DIR=str(tmp_path)) as live:
            assert samples(live)["pool_connections_limit",] == 5
            assert not stale.exists()

    def test_database_errors_are_counted_by_what_they_are(self, live, counted, alice, table_away):
        assert ask(live, URL, body(), **alice.headers)[0] == 500
        wait_until(lambda: counted().get(("database_errors_total", "UndefinedTable")))
        assert counted()["database_errors_total", "UndefinedTable"] == 1


@pytest.fixture
def table_away(database):
    """Take a table away for the length of a test."""
    database.execute("ALTER TABLE push_tokens RENAME TO elsewhere")
    yield
    database.execute("ALTER TABLE elsewhere RENAME TO push_tokens")


@pytest.fixture(scope="module")
def whole_log(tmp_path_factory):
    return tmp_path_factory.mktemp("log") / "log"


@pytest.fixture(scope="module")
def logged(database_url, whole_log):
    with serve(database_url, log=whole_log, LOG_LEVEL="info") as live:
        yield live


@pytest.fixture
def log(logged, whole_log):
    """What the service logs from now on."""
    return Log(whole_log, whole_log.stat().st_size)


class TestLog:
    def test_a_request_is_a_line_with_what_happened(self, logged, log, alice):
        status, headers, _ = ask(logged, URL, body(), X_Request_Id="from.nginx-1", **alice.headers)
        assert (status, headers["X-Request-Id"]) == (200, "from.nginx-1")
        (line,) = [line for line in lines(log) if line.get("request_id") == "from.nginx-1"]
        assert 0 < line.pop("milliseconds") < 10_000
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line.pop("time"))
        assert line == {
            "level": "INFO",
            "logger": "app.requests",
            "message": "request",
            "request_id": "from.nginx-1",
            "method": "POST",
            "route": URL,
            "status": 200,
            "user_id": "alice",
        }

    @pytest.mark.parametrize(
        ("path", "method", "fields", "status", "route"),
        [
            (URL, "POST", body(type="wns"), 401, URL),
            (URL, "POST", body(), 401, URL),
            ("/healthz", "GET", None, 200, "/healthz"),
            ("/api/v1/push.token?token=secret", "PUT", None, 405, "unknown"),
            ("/secret", "GET", None, 404, "unknown"),
        ],
    )
    def test_so_is_every_other(self, logged, log, path, method, fields, status, route):
        for given in ("", "with space", "x" * 129):
            answered, headers, _ = ask(logged, path, fields, method, X_Request_Id=given)
            assert answered == status
            request_id = headers["X-Request-Id"]
            assert re.fullmatch("[0-9a-f]{16}", request_id)
            (line,) = [line for line in lines(log) if line.get("request_id") == request_id]
            assert (line["route"], line["status"], line["user_id"]) == (route, status, None)
            assert line["method"] == method

    def test_a_service_is_named_by_its_key_where_it_was_let_in(self, logged, log, issue):
        known, unknown = issue("lookup", name="sender"), {"Authorization": "Bearer unknown"}
        calls = [("lookup", known, 200), ("feedback", known, 403), ("lookup", unknown, 401)]
        for call, headers, expected in calls:
            fields = {"userIds": ["alice"]}
            status, _, _ = ask(logged, f"/api/v1/push.tokens.{call}", fields, **headers)
            assert status == expected
        found = [line for line in lines(log) if "push.tokens." in str(line.get("route"))]
        assert [line.get("service") for line in found] == ["sender", "sender", None]

    def test_an_error_has_its_trace_in_the_log_and_never_in_the_answer(
        self, logged, log, alice, table_away
    ):
        status, headers, text = ask(logged, URL, body(), **alice.headers)
        assert status == 500
        assert json.loads(text) == {"success": False, "error": "Internal server error"}
        found = [line for line in lines(log) if line.get("request_id") == headers["X-Request-Id"]]
        (error,) = found
        assert (error["level"], error["status"], error["error_type"]) == (
            "ERROR",
            500,
            "internal-error",
        )
        assert error["reason"] == "UndefinedTable 42P01"
        assert "group_commit.py" in error["trace"]

    def test_secrets_are_nowhere_in_it(self, logged, log, alice, database, issue):
        secret = "PLANTED"  # in whatever is secret
        auth_token = alice.headers["X-Auth-Token"]
        key = issue("lookup", "sessions")
        wrong = {"X-User-Id": "alice", "X-Auth-Token": secret}
        for fields in (body(value=secret), body(value=secret, type="wns"), [secret], secret):
            ask(logged, URL, fields, **alice.headers)
            ask(logged, URL, fields, **wrong)
        ask(logged, f"{URL}?token={secret}", method="DELETE", **alice.headers)
        ask(logged, f"/{secret}/{secret}?{secret}", method="GET")
        ask(logged, "/api/v1/sessions.put", {"sessions": secret}, Authorization=f"Bearer {secret}")
        ask(logged, "/api/v1/sessions.put", {"sessions": [secret]}, **key)
        ask(logged, "/api/v1/push.tokens.lookup", {"userIds": ["\ud800"]}, **key)
        for nonsense in (
            f"GET /{secret} HTTP/9.{secret}\r\n\r\n",
            f"{secret}\r\n\r\n",
            f"GET / HTTP/1.1\r\nX-Auth-Token {secret}\r\n\r\n",
            f"GET / HTTP/1.1\r\nX-Auth-Token : {secret}\r\n\r\n",
            f"GET / HTTP/1.1\r\nContent-Length: {secret}\r\n\r\n",
            f"GET / HTTP/1.1\r\nTransfer-Encoding: {secret}\r\n\r\n",
            f"GET / HTTP/1.1\r\nX-Auth-Token: {secret * 10_000}\r\n\r\n",
            f"POST {URL} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{secret}\r\n",
        ):
            logged.exchange(nonsense.encode())
        with socket.create_connection(("127.0.0.1", logged.port)) as client:
            client.sendall(f"POST {URL} HTTP/1.1\r\nContent-Length: 99\r\n\r\n{secret}".encode())
        database.execute(
            "CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " RAISE EXCEPTION '%%', NEW USING ERRCODE = TG_ARGV[0]; END $$"
        )
        for sqlstate in ("P0001", "23514", "22P02", "53100", "57014"):
            database.execute(
                "CREATE OR REPLACE TRIGGER tell BEFORE INSERT ON push_tokens"
                f" FOR EACH ROW EXECUTE FUNCTION tell('{sqlstate}')"
            )
            ask(logged, URL, body(value=secret), **alice.headers)
            ask(logged, URL, body(value=secret, id=secret), **alice.headers)
        database.execute("DROP FUNCTION tell CASCADE")
        written = log.read_text()
        assert written.count('"status":500') >= 6
        assert written.count('"status":503') >= 4
        service_key = key["Authorization"].removeprefix("Bearer ")
        for word in (secret, auth_token, service_key, alice.token_hash.hex()):
            assert word not in written
        assert all(isinstance(line, dict) for line in lines(log))

    def test_it_is_json_to_the_end(self, database_url, tmp_path, alice):
        """Also what Python says of a worker's modules as they go."""
        log = tmp_path / "log"
        with serve(database_url, log=log, LOG_LEVEL="info") as live:
            for n in range(10):
                ask(live, URL, body(value=f"t{n}"), **alice.headers)
            before = live.workers()
            live.process.send_signal(signal.SIGHUP)
            deadline = time.monotonic() + 90
            while not live.is_renewed(before, workers=1):
                assert time.monotonic() < deadline, "the workers are the same"
                time.sleep(0.05)
        said = [line["message"] for line in lines(log)]
        assert said[-1] == "Shutting down: Master"
        assert not [message for message in said if "plugin" in str(message)]
