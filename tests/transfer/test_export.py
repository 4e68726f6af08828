"""`push-tokens export`: what import takes back row by row."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.exports import DATES, LATER, ndjson, row
from tests.support.factories import without_ids

BIN = Path(sys.executable).parent


@pytest.fixture
def stored(runner, database, alice, client):
    """Registrations of every kind."""
    odd = "ü\\\t\n\r\"'\x7f\x01\u2028\N{PARTY POPPER}\\N"
    rows = [
        row("a"),
        row("b", authToken=None, enabled=False, updatedAt=LATER),
        row("c", token={"apn": "ABCDEF"}, createdAt=DATES[1], appName="other"),
        row(odd, _id=odd, userId=odd, appName=odd),
    ]
    result = runner.invoke(args=["push-tokens", "import", "-"], input=ndjson(*rows))
    assert json.loads(result.stdout)["inserted"] == 4
    client.post(
        "/api/v1/push.token",
        json={"type": "gcm", "value": "mine", "appName": "main"},
        headers=alice.headers,
    )
    return database.push_tokens()


def test_comes_back_equal_into_an_empty_database(runner, database, stored):
    exported = runner.invoke(args=["push-tokens", "export"]).stdout_bytes
    database.forget_everyone()
    assert not database.push_tokens()
    result = runner.invoke(args=["push-tokens", "import", "-"], input=exported)
    assert json.loads(result.stdout)["inserted"] == len(stored) == 5
    assert without_ids(database.push_tokens()) == without_ids(stored)
    again = runner.invoke(args=["push-tokens", "import", "-"], input=exported)
    assert json.loads(again.stdout)["unchanged"] == 5


def test_a_session_that_is_exported_and_gone_lets_nobody_in(
    runner, client, database, stored, alice
):
    exported = runner.invoke(args=["push-tokens", "export"]).stdout_bytes
    client.post("/api/v1/logout", headers=alice.headers)
    runner.invoke(args=["push-tokens", "import", "-"], input=exported)
    assert client.get("/api/v1/push.token", headers=alice.headers).status_code == 401


def test_one_app_alone(runner, stored):
    result = runner.invoke(args=["push-tokens", "export", "--app-name", "other"])
    assert [json.loads(line)["_id"] for line in result.stdout.splitlines()] == ["id-c"]
    none = runner.invoke(args=["push-tokens", "export", "--app-name", "othr"])
    assert (none.exit_code, none.stdout) == (1, "")
    assert none.stderr.endswith("Error: no registration is of the app othr\n")


def test_nothing_is_no_line(runner):
    assert runner.invoke(args=["push-tokens", "export"]).stdout == ""


def test_help_says_what_is_in_it(runner):
    assert (
        "SHA-256 of the session" in runner.invoke(args=["push-tokens", "export", "--help"]).output
    )


def test_a_reader_that_has_seen_enough_ends_it_quietly(runner, database, database_url):
    data = ndjson(*(row(f"t{n}") for n in range(3000)))
    runner.invoke(args=["push-tokens", "import", "-"], input=data)
    with subprocess.Popen(
        [f"{BIN}/flask", "push-tokens", "export"],
        env={**os.environ, "DATABASE_URL": database_url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert b"Error" not in process.stderr.read()
