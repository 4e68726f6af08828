"""deploy/prometheus/ and deploy/grafana/: rules that fire, of metrics there are."""

import json
import re
import subprocess

from app.config import ROOT
from tests.support.factories import body
from tests.support.live import ask, serve
from tests.support.parts import part

RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
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
    assert "SUCCESS" in promtool("test", "rules", "rules_test.yml")


def test_every_alert_is_tested_and_explained():
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    tests = (RULES.parent / "rules_test.yml").read_text()
    manual = (ROOT / "deploy" / "README.md").read_text()
    assert len(alerts) == 11
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
    with serve(database_url) as live:
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
    assert named <= there, named - there
    labels = {(name, value) for name, value in re.findall(r'(\w+)="([^"]*)"', shown)}
    labels |= {("status", "503"), ("job", "push-token-registry")}
    for name, operator, value in re.findall(VALUES, " ".join(queries)):
        for one in value.split("|") if "~" in operator else [value]:
            assert one == "$instance" or (name, one) in labels, (name, one)


def test_counters_begin_with_nothing_so_that_the_first_rise_is_seen(database_url):
    with serve(database_url) as live:
        shown = ask(live, "/metrics", method="GET")[2]
    for cause in ("deleted", "logout", "revoked", "feedback"):
        assert f'push_registry_registrations_removed_total{{cause="{cause}"}} 0.0' in shown
    assert 'push_registry_registrations_total{outcome="moved"} 0.0' in shown
