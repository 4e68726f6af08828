"""deploy/prometheus/ and deploy/grafana/: rules that fire, of metrics there are."""

import errno
import json
import os
import re
import signal
import subprocess
import time

from psycopg.errors import ReadOnlySqlTransaction

from app.cli.jobs import NAME
from app.config import ROOT
from app.database.revision import code_revision
from app.database.session_settings import ReadOnlyServerError
from app.version import VERSION
from tests.support.factories import body
from tests.support.live import ask, serve
from tests.support.parts import part

RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
TESTS = sorted(RULES.parent.glob("*_test.yml"))  # Prometheus' own, of what takes minutes and days
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboard.json"
URL = "/api/v1/push.token"
VALUES = r'([a-z]+)(=~?|!~?|!=)"([^"]*)"'


def promtool(*arguments: str) -> str:
    command = [part("promtool"), *arguments]
    done = subprocess.run(command, cwd=RULES.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def targets() -> list[dict[str, str]]:
    return [
        one for panel in json.loads(DASHBOARD.read_text())["panels"] for one in panel["targets"]
    ]


def test_promtool_can_read_the_rules_and_they_fire_when_they_should():
    assert "SUCCESS" in promtool("check", "rules", RULES.name)
    assert "SUCCESS" in promtool("test", "rules", *(path.name for path in TESTS))


def test_every_alert_is_tested_and_explained():
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    tests = "".join(path.read_text() for path in TESTS)
    manual = (ROOT / "deploy" / "README.md").read_text()
    assert len(alerts) == 19
    for alert in alerts:
        assert re.search(rf"alertname: {alert}\s+exp_alerts:", tests), alert
        assert f"`{alert}`" in manual


def test_promtool_can_read_the_dashboard_s_queries(tmp_path):
    """As rules, for promtool reads nothing else, with values for Grafana's variables."""
    rules = [
        {
            "record": f"panel:{number}",
            "expr": one["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*"),
        }
        for number, one in enumerate(targets())
    ]
    (tmp_path / "dashboard.yml").write_text(
        json.dumps({"groups": [{"name": "x", "rules": rules}]})
    )
    assert "SUCCESS" in promtool("check", "rules", str(tmp_path / "dashboard.yml"))


def test_every_metric_route_and_status_that_they_name_is_at_metrics(database_url, database, alice):
    """A query that names what isn't there is silent for ever."""
    with serve(database_url, DATABASE_READ_URL=database_url) as live:
        for path, method in ((URL, "POST"), (URL, "GET"), ("/readyz", "GET"), ("/healthz", "GET")):
            ask(live, path, body() if method == "POST" else None, method, **alice.headers)
        ask(live, "/metrics", method="GET")
        ask(live, URL, body(value="\0"), **alice.headers | {"X-User-Id": "bob"})
        database.execute("ALTER TABLE push_tokens RENAME TO elsewhere")
        status, _, _ = ask(live, URL, body(), **alice.headers)
        database.execute("ALTER TABLE elsewhere RENAME TO push_tokens")
        assert status == 500
        shown = ask(live, "/metrics", method="GET")[2]
    there = set(re.findall(r"^(push_registry_\w+)", shown, re.M))
    queries = [*re.findall(r"expr: (?:\|\n)?((?:.+\n)(?: {12}.+\n)*)", RULES.read_text())]
    queries += [one["expr"] for one in targets()]
    named = set(re.findall(r"push_registry_\w+", " ".join(queries)))
    assert len(named) >= 8
    named.remove(NAME)  # a command's, by node_exporter
    assert named <= there, named - there
    labels = {(name, value) for name, value in re.findall(r'(\w+)="([^"]*)"', shown)}
    labels |= {("status", "503"), ("status", "400"), ("job", "push-token-registry")}
    labels |= {
        ("error", error.__name__) for error in (ReadOnlyServerError, ReadOnlySqlTransaction)
    }
    for name, operator, value in re.findall(VALUES, " ".join(queries)):
        for one in value.split("|") if "~" in operator else [value]:
            assert one == "$instance" or (name, one) in labels, (name, one)


def assert_first_rises_are_seen(shown: str) -> None:
    """Counters begin with nothing."""
    for cause in ("deleted", "logout", "revoked", "feedback"):
        assert f'push_registry_registrations_removed_total{{cause="{cause}"}} 0.0' in shown
    assert 'push_registry_registrations_total{outcome="moved"} 0.0' in shown


def test_metrics_tell_build_processes_starts_and_what_is_nothing_yet(database_url):
    """Of master and worker together; a worker that was restarted counts once more."""
    with serve(database_url) as live:
        shown = ask(live, "/metrics", method="GET")[2]
        assert_first_rises_are_seen(shown)
        (worker,) = live.workers()
        os.kill(worker, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while worker in live.workers() or not live.says_yes("/readyz"):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        later = ask(live, "/metrics", method="GET")[2]
    assert "push_registry_workers_started_total 2.0" in later
    said = dict(re.findall(r"^(push_registry_\w+(?:{.*})?) (\S+)$", shown, re.M))
    labels = f'{{revision="{code_revision()}",version="{VERSION}"}}'
    assert said[f"push_registry_build_info{labels}"] == "1.0"
    assert said["push_registry_processes"] == "2.0"
    assert float(said["push_registry_resident_memory_bytes"]) > 50e6
    assert 10 < float(said["push_registry_open_fds"]) < 200
    assert said["push_registry_workers_started_total"] == "1.0"
    assert float(said["push_registry_oldest_wait_seconds"]) < 5


def test_a_moment_that_cannot_be_noted_leaves_no_file(new_app, database_url, tmp_path):
    in_the_way = tmp_path / "push_registry_sessions_purge.prom"
    in_the_way.mkdir()
    app = new_app(database_url=database_url, metrics_textfile_dir=str(tmp_path))
    done = app.test_cli_runner().invoke(args=["sessions", "purge"])
    assert (done.exit_code, os.strerror(errno.EISDIR) in done.stderr) == (1, True)
    assert list(tmp_path.iterdir()) == [in_the_way]


def test_commands_of_timers_note_when_they_succeeded(new_app, database_url, tmp_path):
    runner = new_app(
        database_url=database_url, metrics_textfile_dir=str(tmp_path)
    ).test_cli_runner()
    assert (
        runner.invoke(args=["push-tokens", "purge", "--unseen-days", "9", "--dry-run"]).exit_code
        == 0
    )
    assert list(tmp_path.iterdir()) == []
    for command in (["push-tokens", "purge", "--unseen-days", "9"], ["sessions", "purge"]):
        assert runner.invoke(args=command).exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        *("push_registry_purge.prom", "push_registry_sessions_purge.prom")
    }
    text = (tmp_path / "push_registry_sessions_purge.prom").read_text()
    (moment,) = re.findall(rf'^{NAME}{{command="sessions purge"}} (\d+)$', text, re.M)
    assert abs(int(moment) - time.time()) < 60
    assert (tmp_path / "push_registry_purge.prom").stat().st_mode & 0o777 == 0o644
