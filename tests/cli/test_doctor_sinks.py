"""`push-tokens doctor` on what the service writes to: its log and its metrics' folder."""

import errno
import json
import os
import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from app.cli import doctor_sinks
from app.config import ROOT
from tests.support.live import free_port, serve


def read(line: str, code: int) -> dict[str, dict[str, str]]:
    """Return the findings by check; nothing of this kind is an error."""
    result = json.loads(line)
    assert result["ok"] == (code == 0)
    return {one["check"]: one for one in result["checks"]}


@pytest.fixture
def doctor(new_app, monkeypatch):
    """A function that runs the command for settings, and returns the findings by check."""
    monkeypatch.setattr(doctor_sinks, "SECONDS", 60)  # the machine may stand still for some

    def doctor(**settings: object) -> dict[str, dict[str, str]]:
        done = new_app(**settings).test_cli_runner().invoke(args=["doctor", "--json"])
        return read(done.stdout, done.exit_code)

    return doctor


def doctor_process(*before: str, **environ: str) -> dict[str, dict[str, str]]:
    """The same with a process of its own, begun by the words `before`."""
    done = subprocess.run(
        [*before, sys.executable, "-m", "flask", "doctor", "--json"],
        cwd=ROOT,
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        check=False,
    )
    return read(done.stdout, done.returncode)


def test_a_running_service_is_asked_what_it_cannot_write(database_url, doctor):
    with serve(database_url, log=Path("/dev/full"), LOG_LEVEL="info") as live:
        found = doctor(database_url=database_url, port=live.port)["service"]
    assert found["state"] == "warning"
    assert found["says"] == (
        f"127.0.0.1:{live.port} says: log: lines are lost: No space left on device"
    )


def test_a_service_that_is_not_ready_is_wrong_with_advice_of_its_own(
    database_url, new_database, doctor
):
    with serve(new_database(), probe="/healthz") as live:
        found = doctor(database_url=database_url, port=live.port)["service"]
    assert found["state"] == "wrong"
    assert "is not ready: the database is at revision None" in found["says"]
    assert "other settings" in found["do"]


def test_nothing_is_wrong_where_no_service_or_another_one_runs(database_url, doctor):
    port = free_port()
    found = doctor(database_url=database_url, port=port)
    unit = doctor_sinks.UNIT
    assert found["service"]["says"] == f"not asked: none runs at 127.0.0.1:{port} (PORT) or {unit}"
    assert (found["service"]["state"], found["metrics"]["state"]) == ("right", "right")

    class Other(BaseHTTPRequestHandler):
        def do_GET(self):
            self.wfile.write(b'HTTP/1.0 200 OK\r\n\r\n["x"]')

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as other:
        Thread(target=other.serve_forever, args=(0.05,), daemon=True).start()
        found = doctor(database_url=database_url, port=other.server_address[1])["service"]
        other.shutdown()
    assert (found["state"], "another program" in found["says"]) == ("right", True)


def test_the_socket_of_the_systemd_unit_is_asked_or_named(
    database_url, doctor, tmp_path, monkeypatch
):
    unit = tmp_path / "gunicorn.sock"
    monkeypatch.setattr(doctor_sinks, "UNIT", str(unit))
    monkeypatch.setattr(doctor_sinks, "SECONDS", 0.2)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(unit))
        listener.listen()
        silent = doctor(database_url=database_url, port=free_port())["service"]
        assert silent["says"] == f"{unit} does not answer within 0.2 s"
        assert silent["state"] == "warning"

    class Refused(socket.socket):
        def connect(self, address):
            if address == str(unit):
                raise PermissionError(errno.EACCES, "Permission denied")
            super().connect(address)

    monkeypatch.setattr(socket, "socket", Refused)
    refused = doctor(database_url=database_url, port=free_port())["service"]
    assert (refused["state"], str(unit) in refused["says"]) == ("right", True)
    assert f"curl --unix-socket {unit} http://localhost/readyz" in refused["do"]


def test_a_folder_without_room_is_a_warning_with_advice(database_url, tmp_path):
    without_room = ("sh", "-c", 'ulimit -f 0; exec "$@"', "sh")
    environ = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "DATABASE_URL": database_url}
    found = doctor_process(*without_room, PORT=str(free_port()), **environ)["metrics"]
    assert found["state"] == "warning"
    assert found["says"] == f"{tmp_path} has no room for the workers' counts: File too large"
    assert "PROMETHEUS_MULTIPROC_DIR" in found["do"]
    assert list(tmp_path.iterdir()) == []
