"""The registry in a schema of its own, beside another one in the same database."""

import json

import psycopg
import pytest

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


@pytest.fixture
def command(new_app):
    """A function that runs a command, which is to succeed, and returns what it printed."""

    def command(url: str, *arguments: str) -> str:
        done = new_app(database_url=url).test_cli_runner().invoke(args=arguments)
        assert done.exit_code == 0, done.output
        return done.stdout

    return command


def test_it_serves_from_a_schema_of_its_own(tenant, command):
    app = tenant.url("app")
    issued = json.loads(command(app, "sessions", "issue", "alice"))
    key = command(tenant.url("issuer"), "service-keys", "issue", "s", "--scope", "lookup")
    headers = {"X-User-Id": "alice", "X-Auth-Token": issued["authToken"]}
    with serve(app) as live:
        status, _, said = ask(live, "/readyz", method="GET")
        assert (status, json.loads(said)["revision"]) == (200, code_revision())
        for fields in (body(value="t"), body(value="u", id="d"), body(value="w", id="d")):
            assert ask(live, "/api/v1/push.token", fields, **headers)[0] == 200
        bearer = {"Authorization": f"Bearer {json.loads(key)['key']}"}
        _, _, found = ask(live, "/api/v1/push.tokens.lookup", {"userIds": ["alice"]}, **bearer)
    assert {one["token"]["gcm"] for one in json.loads(found)["tokens"]} == {"t", "w"}
    assert json.loads(command(app, "push-tokens", "stats", "--json"))
    command(app, "push-tokens", "purge", "--unseen-days", "270")
    command(app, "doctor")
    with psycopg.connect(tenant.database) as connection:
        counts = "SELECT (SELECT count(*) FROM tenant_a.push_tokens), count(*) FROM push_tokens"
        assert connection.execute(counts).fetchone() == (2, 0)
