"""The registry in a schema of its own, beside another one in the same database."""

import json
import os
import subprocess
import sys

import psycopg
import pytest

from app.config import ROOT
from app.database.revision import code_revision
from tests.support.databases import migrate
from tests.support.factories import body
from tests.support.live import ask, serve
from tests.support.roles import Roles

TENANT = "tenant_a"


@pytest.fixture(scope="module")
def tenant(new_database):
    """Roles on a schema, with the tables in it; public has those of a former release, empty."""
    url = new_database()
    migrate(url, "upgrade", "0007_environment_not_null")
    with Roles.migrated(url, TENANT) as roles:
        yield roles


def command(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flask", *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )


def printed(url: str, *arguments: str) -> dict[str, object]:
    done = command(url, *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_serves_from_a_schema_of_its_own(tenant):
    app = tenant.url("app")
    issued = printed(app, "sessions", "issue", "alice")
    key = printed(tenant.url("issuer"), "service-keys", "issue", "s", "--scope", "lookup")["key"]
    headers = {"X-User-Id": "alice", "X-Auth-Token": issued["authToken"]}
    with serve(app) as live:
        status, _, said = ask(live, "/readyz", method="GET")
        assert (status, json.loads(said)["revision"]) == (200, code_revision())
        for fields in (body(value="t"), body(value="u", id="d"), body(value="w", id="d")):
            assert ask(live, "/api/v1/push.token", fields, **headers)[0] == 200
        bearer = {"Authorization": f"Bearer {key}"}
        _, _, found = ask(live, "/api/v1/push.tokens.lookup", {"userIds": ["alice"]}, **bearer)
    assert {one["token"]["gcm"] for one in json.loads(found)["tokens"]} == {"t", "w"}
    assert printed(app, "push-tokens", "stats", "--json")
    assert command(app, "push-tokens", "purge", "--unseen-days", "270").returncode == 0
    checked = command(app, "doctor")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    with psycopg.connect(tenant.database) as connection:
        counts = "SELECT (SELECT count(*) FROM tenant_a.push_tokens), count(*) FROM push_tokens"
        assert connection.execute(counts).fetchone() == (2, 0)
