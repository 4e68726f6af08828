"""`environment`: which of APNs' two gateways knows a push token."""

import json
import os
import subprocess
import sys
import time

import psycopg
import pytest
from alembic.util import CommandError

from tests.support.answers import missing_or_invalid
from tests.support.databases import migrate
from tests.support.exports import ndjson, row
from tests.support.factories import body
from tests.support.filled import fill
from tests.support.roles import psql
from tests.support.scripts import script

URL = "/api/v1/push.token"
FIRST_OF_CONTRACT = "0005_environment_demanded"
ERROR = {
    "success": False,
    "error": 'The "environment" body param is invalid. [error-environment-param-not-valid]',
    "errorType": "error-environment-param-not-valid",
}


@pytest.fixture
def sender(client, issue):
    """A function that asks for registrations; returns them."""
    key = issue("lookup")

    def ask(call: str = "lookup", **fields: object) -> list[dict[str, object]]:
        asked = {"userIds": ["alice"], **fields} if call == "lookup" else fields
        answer = client.post(f"/api/v1/push.tokens.{call}", json=asked, headers=key)
        assert answer.status_code == 200, answer.text
        return answer.json["tokens"]

    return ask


@pytest.mark.parametrize("device", [{}, {"id": "device"}], ids=["plain", "with an id"])
class TestRegister:
    @pytest.mark.parametrize("absent", [None, ""])
    def test_is_production_where_it_is_not_said(self, client, alice, database, device, absent):
        for fields in (body(**device), body(**device, environment=absent)):
            assert client.post(URL, json=fields, headers=alice.headers).status_code == 200
            assert [one["environment"] for one in database.push_tokens()] == ["production"]

    def test_is_what_the_last_registration_said(self, client, alice, database, device):
        for said in ("sandbox", "production", "sandbox"):
            fields = body(**device, environment=said)
            assert client.post(URL, json=fields, headers=alice.headers).status_code == 200
            assert [one["environment"] for one in database.push_tokens()] == [said]

    @pytest.mark.parametrize(
        "wrong", ["Sandbox", "dev", "\0", 0, 1, False, True, [], {}, ["sandbox"]]
    )
    def test_is_one_of_two(self, client, alice, database, device, wrong):
        answer = client.post(URL, json=body(**device, environment=wrong), headers=alice.headers)
        assert (answer.status_code, answer.json) == (400, ERROR)
        assert database.push_tokens() == []

    def test_is_checked_last(self, client, alice, device):
        fields = body(**device, environment="x", appName="")
        answer = client.post(URL, json=fields, headers=alice.headers)
        assert answer.json == missing_or_invalid("appName", "error-appName-param-not-valid")

    def test_changes_no_answer_to_an_app(self, client, alice, device):
        fields = body(**device, environment="sandbox")
        answer = client.post(URL, json=fields, headers=alice.headers).json["result"]
        documented = ["token", "appName", "userId", "enabled", "createdAt", "updatedAt", "_id"]
        assert list(answer) == documented
        (listed,) = client.get(URL, headers=alice.headers).json["tokens"]
        assert list(listed) == documented


@pytest.mark.parametrize("call", ["lookup", "list"])
class TestSenders:
    @pytest.fixture(autouse=True)
    def registered(self, client, alice):
        for said in ("sandbox", "production"):
            fields = body(value=said, environment=said)
            client.post(URL, json=fields, headers=alice.headers)

    def test_see_it_when_they_ask(self, sender, call):
        seen = sender(call, withEnvironment=True)
        assert {(one["token"]["gcm"], one["environment"]) for one in seen} == {
            ("sandbox", "sandbox"),
            ("production", "production"),
        }
        assert list(seen[0])[-2:] == ["_id", "environment"]

    def test_and_else_not(self, sender, call):
        seen = sender(call)
        assert len(seen) == 2
        assert not any("environment" in one for one in seen)

    @pytest.mark.parametrize("wanted", ["sandbox", "production"])
    def test_may_ask_for_one(self, sender, call, wanted, database):
        assert [one["token"]["gcm"] for one in sender(call, environment=wanted)] == [wanted]

    def test_may_not_make_one_up(self, client, issue, call):
        asked = {"userIds": ["alice"], "environment": "dev"}
        answer = client.post(f"/api/v1/push.tokens.{call}", json=asked, headers=issue("lookup"))
        assert answer.status_code == 400
        assert answer.json["error"].startswith("environment: ")


class TestImport:
    def test_takes_back_what_was_exported(self, runner, database):
        exported = [row("s", environment="sandbox"), row("p")]
        runner.invoke(args=["push-tokens", "import", "-"], input=ndjson(*exported))
        found = {one["token"]: one["environment"] for one in database.push_tokens()}
        assert found == {"s": "sandbox", "p": "production"}
        lines = runner.invoke(args=["push-tokens", "export"]).stdout.splitlines()
        documents = [json.loads(line) for line in lines]
        assert {one["token"]["gcm"]: one["environment"] for one in documents} == found

    @pytest.mark.parametrize("wrong", ["", "dev", [], 1])
    def test_rejects_what_it_does_not_know(self, runner, wrong):
        result = runner.invoke(
            args=["push-tokens", "import", "-"], input=ndjson(row("x", environment=wrong))
        )
        assert json.loads(result.stdout)["rejected"] == 1
        assert "environment: not one of production and sandbox" in result.stderr


class TestBackfill:
    """Between revision 0004 and the ones that demand a value."""

    @pytest.fixture
    def expanded(self, new_database):
        """A database with rows from before revision 0004, migrated to it."""
        url = new_database()
        migrate(url, "upgrade", "0003_refresh_heavy_tables")
        fill(url, 3000)
        migrate(url, "upgrade", EXPANDED)
        return url

    @pytest.fixture
    def run(self, expanded, new_app):
        """A function that runs the command; returns what it says."""
        runner = new_app(database_url=expanded).test_cli_runner()

        def run() -> dict[str, object]:
            result = runner.invoke(args=["push-tokens", "backfill"])
            assert result.exit_code == 0, result.output
            return json.loads(result.stdout)

        return run

    def test_fills_what_is_not_filled_and_nothing_else(self, expanded, run):
        with psycopg.connect(expanded, autocommit=True) as connection:
            connection.execute("UPDATE push_tokens SET environment = 'sandbox' WHERE type = 'apn'")
            (sandbox,) = connection.execute(
                "SELECT count(*) FROM push_tokens WHERE environment = 'sandbox'"
            ).fetchone()
            assert 0 < sandbox < 3000
            before = "SELECT md5(string_agg(id || updated_at, '' ORDER BY id)) FROM push_tokens"
            untouched = connection.execute(before).fetchone()
            assert run() == {"filled": 3000 - sandbox}
            assert run() == {"filled": 0}
            counts = "SELECT environment, count(*) FROM push_tokens GROUP BY 1 ORDER BY 1"
            assert connection.execute(counts).fetchall() == [
                ("production", 3000 - sandbox),
                ("sandbox", sandbox),
            ]
            assert connection.execute(before).fetchone() == untouched

    def test_killed_in_the_middle_and_run_again(self, new_database, new_app):
        url = new_database()
        migrate(url, "upgrade", "0003_refresh_heavy_tables")
        fill(url, 50_000)
        migrate(url, "upgrade", EXPANDED)
        left = "SELECT count(*) FROM push_tokens WHERE environment IS NULL"
        command = [sys.executable, "-m", "flask", "push-tokens", "backfill"]
        with (
            psycopg.connect(url, autocommit=True) as connection,
            subprocess.Popen(
                command,
                env={**os.environ, "DATABASE_URL": url},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            ) as process,
        ):
            remaining = 50_000
            while remaining == 50_000 and process.poll() is None:
                time.sleep(0.01)
                remaining = connection.execute(left).fetchone()[0]
            process.kill()
            process.wait()
            remaining = connection.execute(left).fetchone()[0]
            assert 0 < remaining < 50_000
            runner = new_app(database_url=url).test_cli_runner()
            again = runner.invoke(args=["push-tokens", "backfill"])
            assert json.loads(again.stdout) == {"filled": remaining}
            assert connection.execute(left).fetchone() == (0,)

    def test_senders_take_what_is_not_filled_for_production(self, expanded, new_app):
        app = new_app(database_url=expanded)
        issued = app.test_cli_runner().invoke(
            args=["service-keys", "issue", "sender", "--scope", "lookup"]
        )
        key = {"Authorization": f"Bearer {json.loads(issued.stdout)['key']}"}
        found = {}
        for wanted in ("production", "sandbox"):
            asked = {"environment": wanted, "withEnvironment": True, "count": 1000}
            answer = app.test_client().post("/api/v1/push.tokens.list", json=asked, headers=key)
            found[wanted] = {one["environment"] for one in answer.json["tokens"]}
        assert found == {"production": {"production"}, "sandbox": set()}

    def test_the_next_revision_refuses_until_it_is_done(self, expanded, run):
        with pytest.raises(AssertionError, match="flask push-tokens backfill"):
            psql(expanded, script("upgrade", f"{EXPANDED}:{FIRST_OF_CONTRACT}"))
        with pytest.raises(CommandError, match='without an environment: run "flask push-tokens b'):
            migrate(expanded, "upgrade", "head")
        with psycopg.connect(expanded) as connection:
            versions = connection.execute("SELECT version_num FROM alembic_version").fetchall()
        assert versions == [(EXPANDED,)]
        run()
        migrate(expanded, "upgrade", "head")
        migrate(expanded, "check")

    def test_what_the_previous_release_writes_meanwhile_needs_no_filling(self, expanded, run):
        """It does not name the column: new rows get the default, old ones stay as they are."""
        with psycopg.connect(expanded, autocommit=True) as connection:
            insert = (
                "INSERT INTO push_tokens (id, app_name, token, type, user_id, session_hash)"
                " SELECT 'new', 'app', 'new', 'gcm', user_id, token_hash"
                " FROM user_sessions LIMIT 1"
                " RETURNING environment"
            )
            assert connection.execute(insert).fetchone() == ("production",)
        assert run() == {"filled": 3000}
