"""`push-tokens backfill`: between the revision that adds a column and the one that demands it."""

import json

import psycopg
import pytest
from alembic.util import CommandError

from app.registry import maintenance
from app.registry.registration import Registration
from tests.support.databases import migrate
from tests.support.filled import fill
from tests.support.killing import killed_halfway
from tests.support.registering import connect
from tests.support.registering import run as register

ROWS = 3000
# What was before, the revision that adds the column, and what is in it once it is filled.
COLUMNS = {
    "environment": ("0003_refresh_heavy_tables", "0004_environment", "'production'"),
    "device_id": ("0007_environment_not_null", "0009_device_id_index", "id"),
}


@pytest.fixture(params=COLUMNS)
def column(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def copied(new_database):
    """A function that copies a database with rows from before a column, and with it."""
    made: dict[str, str] = {}

    def copy(column: str) -> str:
        if column not in made:
            made[column] = new_database()
            before, revision, _ = COLUMNS[column]
            migrate(made[column], "upgrade", before)
            fill(made[column], ROWS)
            migrate(made[column], "upgrade", revision)
        return new_database(made[column])

    return copy


@pytest.fixture
def expanded(copied, column) -> str:
    """Such a database of the test's own."""
    return copied(column)


@pytest.fixture
def run(expanded, new_app):
    """A function that runs the command; returns how many rows it filled."""
    runner = new_app(database_url=expanded).test_cli_runner()

    def run() -> int:
        result = runner.invoke(args=["push-tokens", "backfill"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)["filled"]

    return run


def count(url: str, condition: str) -> int:
    with psycopg.connect(url) as connection:
        query = f"SELECT count(*) FROM push_tokens WHERE {condition}"
        return connection.execute(query).fetchone()[0]


def test_fills_what_is_not_filled_and_nothing_else(expanded, run, column):
    _, _, value = COLUMNS[column]
    other = "'sandbox'" if column == "environment" else "'mine' || id"
    with psycopg.connect(expanded, autocommit=True) as connection:
        connection.execute(f"UPDATE push_tokens SET {column} = {other} WHERE type = 'apn'")
    there = count(expanded, f"{column} IS NOT NULL")
    assert 0 < there < ROWS
    assert (run(), run()) == (ROWS - there, 0)
    assert count(expanded, f"type = 'apn' AND {column} = {other}") == there
    assert count(expanded, f"type = 'gcm' AND {column} = {value}") == ROWS - there


def test_killed_in_the_middle_and_run_again(expanded, run, column):
    def fill_more() -> None:
        with psycopg.connect(expanded, autocommit=True) as connection:
            connection.execute("DELETE FROM push_tokens WHERE user_id = 'x'")
            connection.execute(
                "INSERT INTO user_sessions (token_hash, user_id) VALUES ('x', 'x')"
                " ON CONFLICT DO NOTHING"
            )
            connection.execute("ALTER TABLE push_tokens DISABLE TRIGGER USER")
            names = "id, app_name, token, type, user_id, session_hash"
            connection.execute(
                f"INSERT INTO push_tokens ({names}{', environment' * (column == 'environment')})"
                f" SELECT 'x' || n, 'app', 'x' || n, 'gcm', 'x', 'x'"
                f" {', NULL' * (column == 'environment')} FROM generate_series(1, 30000) n"
            )
            connection.execute("ALTER TABLE push_tokens ENABLE TRIGGER USER")

    unfilled = f"{column} IS NULL"
    remaining = killed_halfway(expanded, fill_more, f"push_tokens WHERE {unfilled}", "backfill")
    assert run() == remaining
    assert count(expanded, unfilled) == 0


def test_the_next_revision_refuses_until_it_is_done(expanded, run, column):
    with pytest.raises(CommandError, match=r'run "(flask )?push-tokens backfill" and migrate'):
        migrate(expanded, "upgrade", "head")
    run()
    following = "0007_environment_not_null" if column == "environment" else "head"
    migrate(expanded, "upgrade", following)


def test_rows_that_are_held_come_last_and_are_told(
    expanded, run, column, new_app, monkeypatch, is_spread
):
    """Spread over nodes it can't pass by them: it waits for the lock, and is to be run again."""
    monkeypatch.setattr(maintenance, "PAUSES", (0, 0))
    runner = new_app(database_url=expanded).test_cli_runner()
    with psycopg.connect(expanded) as other:
        other.execute("SELECT 1 FROM push_tokens ORDER BY id LIMIT 2 FOR UPDATE")
        result = runner.invoke(args=["push-tokens", "backfill"])
        assert result.exit_code == 1
        if is_spread:
            assert "DATABASE_LOCK_TIMEOUT" in result.stderr
            other.rollback()
            assert run() > 2
            return
        assert f"2 rows have no {column} and are locked" in result.stderr
        assert count(expanded, f"{column} IS NULL") == 2
        monkeypatch.setattr(maintenance.time, "sleep", lambda _: other.rollback())
        assert run() == 2


def test_what_the_previous_release_writes_needs_no_filling(expanded, run, column):
    """It does not name the column: a default or a trigger does; old rows may stay as they are."""
    _, _, value = COLUMNS[column]
    with psycopg.connect(expanded, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO push_tokens (id, app_name, token, type, user_id, session_hash)"
            " SELECT 'new', 'app', 'new', 'gcm', user_id, token_hash FROM user_sessions LIMIT 1"
        )
    assert count(expanded, f"id = 'new' AND {column} = {value}") == 1
    assert run() == ROWS


# The one column that has triggers.
OF_DEVICES = pytest.mark.parametrize("column", ["device_id"], indirect=True)


@OF_DEVICES
class TestTriggers:
    """What the previous release writes beside the next one, at revision 0009."""

    def device_id(self, url: str, change: str) -> str:
        with psycopg.connect(url, autocommit=True) as connection:
            (id_,) = connection.execute("SELECT id FROM push_tokens LIMIT 1").fetchone()
            connection.execute(f"UPDATE push_tokens SET {change} WHERE id = %s", [id_])
            query = "SELECT id, device_id FROM push_tokens WHERE id IN (%s, 'other')"
            found, name = connection.execute(query, [id_]).fetchone()
            return "the id" if found == name else name

    def test_a_refresh_fills_it(self, expanded):
        assert self.device_id(expanded, "updated_at = now()") == "the id"

    def test_another_id_is_another_name(self, expanded, run):
        run()
        assert self.device_id(expanded, "id = 'other'") == "the id"

    def test_a_name_that_was_given_stays(self, expanded):
        assert self.device_id(expanded, "device_id = 'mine'") == "mine"


def leave_three(url: str) -> None:
    """Leave three rows of one device, as two releases may; that of push token a is the latest."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("INSERT INTO user_sessions (token_hash, user_id) VALUES ('x', 'x')")
        for days, name in enumerate("abc"):
            connection.execute(
                "INSERT INTO push_tokens (id, app_name, token, type, user_id, session_hash,"
                " device_id, updated_at) VALUES (%s, 'app', %s, 'gcm', 'x', 'x', 'X',"
                " now() - %s * interval '1 day')",
                [name, name, days],
            )


@OF_DEVICES
def test_what_both_left_of_one_device_is_merged(expanded, run):
    """The latest renewed stays; revisions after 0009 are for when the previous release is gone."""
    run()
    leave_three(expanded)
    migrate(expanded, "upgrade", "head")
    assert count(expanded, "user_id = 'x'") == count(expanded, "id = 'a'") == 1
    assert count(expanded, "true") == ROWS + 1


@OF_DEVICES
@pytest.mark.parametrize("token", ["new", "b"])
def test_a_registration_takes_the_place_of_all_of_them(expanded, token, is_spread):
    leave_three(expanded)
    asked = Registration(b"x", "x", "app", token, "gcm", device_id="X")
    with connect(expanded) as connection:
        (registered,) = register(connection, [asked])
    assert registered.row["created_at"]
    assert count(expanded, "user_id = 'x'") == count(expanded, f"token = '{token}'") == 1
