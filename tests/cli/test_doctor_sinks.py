"""`push-tokens doctor` on what the service writes to: its log and its metrics' folder."""

import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

from app.config import ROOT
from tests.support.live import free_port, serve


def doctor(*before: str, **environ: str) -> dict[str, dict[str, str]]:
    """Return the findings by check; nothing of this kind is an error."""
    done = subprocess.run(
        [*before, sys.executable, "-m", "flask", "doctor", "--json"],
        cwd=ROOT,
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        check=False,
    )
    result = json.loads(done.stdout)
    assert result["ok"] == (done.returncode == 0)
    return {one["check"]: one for one in result["checks"]}


def test_a_running_service_is_asked_what_it_cannot_write(database_url):
    with serve(database_url, log=Path("/dev/full"), LOG_LEVEL="info") as live:
        found = doctor(DATABASE_URL=database_url, PORT=str(live.port))["service"]
    assert found["state"] == "warning"
    assert found["says"] == (
        f"127.0.0.1:{live.port} says: log: lines are lost: No space left on device"
    )


def test_nothing_is_wrong_where_no_service_or_another_one_runs(database_url):
    port = free_port()
    found = doctor(DATABASE_URL=database_url, PORT=str(port))
    assert found["service"]["says"] == f"not asked: none runs at 127.0.0.1:{port}"
    assert (found["service"]["state"], found["metrics"]["state"]) == ("right", "right")

    class Other(BaseHTTPRequestHandler):
        def do_GET(self):
            self.wfile.write(b'HTTP/1.0 200 OK\r\n\r\n["x"]')

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as other:
        Thread(target=other.serve_forever, args=(0.05,), daemon=True).start()
        found = doctor(DATABASE_URL=database_url, PORT=str(other.server_address[1]))["service"]
        other.shutdown()
    assert (found["state"], "another program" in found["says"]) == ("right", True)


def test_a_folder_without_room_is_a_warning_with_advice(database_url, tmp_path):
    without_room = ("sh", "-c", 'ulimit -f 0; exec "$@"', "sh")
    environ = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "DATABASE_URL": database_url}
    found = doctor(*without_room, PORT=str(free_port()), **environ)["metrics"]
    assert found["state"] == "warning"
    assert found["says"] == f"{tmp_path} has no room for the workers' counts: File too large"
    assert "PROMETHEUS_MULTIPROC_DIR" in found["do"]
    assert list(tmp_path.iterdir()) == []
