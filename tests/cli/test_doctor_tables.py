"""`push-tokens doctor` says where the tables are, and whether DATABASE_DISTRIBUTED fits them."""

import json
import re

import psycopg
import pytest
from psycopg import errors, sql

from app.cli import doctor_tables
from tests.support import citus
from tests.support.databases import migrate
from tests.support.roles import partition

SESSION = "INSERT INTO user_sessions (token_hash, user_id) VALUES (sha256('s'), 'alice')"
DEVICE = """
INSERT INTO push_tokens (id, app_name, token, type, user_id, session_hash, device_id)
VALUES (%s, 'app', %s, %s, 'alice', sha256('s'), 'device')
"""


@pytest.fixture(scope="module")
def url(new_database):
    """A migrated database, without the keys that spread tables lack."""
    url = new_database()
    migrate(url, "upgrade", "head")
    return url


@pytest.fixture
def tables(new_app, url):
    """A function that returns the finding, as its state and what it says, for a setting."""

    def tables(setting: str | None, check: str = "tables") -> tuple[str, str]:
        app = new_app(database_url=url, database_distributed=setting)
        done = app.test_cli_runner().invoke(args=["doctor", "--json"])
        (found,) = [one for one in json.loads(done.stdout)["checks"] if one["check"] == check]
        return found["state"], " → ".join(filter(None, (found["says"], found["do"])))

    return tables


@pytest.fixture
def spread_keys(url):
    """The keys of spread tables, until the end of the test."""
    assert citus.run("keys.sql", url).returncode == 0
    yield url
    assert citus.run("keys-back.sql", url, "-v", "remove=yes").returncode == 0


@pytest.fixture
def played(url):
    """Citus' catalog, played; the function puts both tables or one of them there."""
    citus.stand_in(url)

    def put(method: str, *names: str) -> None:
        with psycopg.connect(url) as connection:
            for name in names or ("push_tokens", "user_sessions"):
                values = [name, method]
                connection.execute(
                    "INSERT INTO pg_dist_partition VALUES (%s::text::regclass, %s)", values
                )

    yield put
    citus.stand_out(url)


def test_one_postgresql_needs_no_setting(tables):
    assert tables(None) == ("right", "the tables are on one PostgreSQL")
    state, says = tables("citus")
    assert state == "warning"
    assert "unset DATABASE_DISTRIBUTED" in says


def test_partitions_want_room_for_their_locks(tables, url):
    with psycopg.connect(url) as connection:
        (room,) = connection.execute("SHOW max_locks_per_transaction").fetchone()
    few = int(room) // 16
    try:
        partition(url, few)
        name = f"the tables are on one PostgreSQL, push_tokens in {few} partitions"
        assert tables(None) == ("right", name)
        partition(url, few + 1)
        state, says = tables(None)
        assert state == "warning"
        assert f"max_locks_per_transaction is {room} → set it to {(few + 1) * 16}" in says
    finally:
        partition(url, 0)


def test_the_keys_of_spread_tables_need_the_setting(tables, spread_keys):
    state, says = tables(None)
    assert state == "wrong"
    assert "have the keys of spread ones → set DATABASE_DISTRIBUTED=citus" in says
    assert tables("citus") == (
        "right",
        "the tables have the keys of spread ones, and no device is held twice",
    )


def test_devices_that_are_held_twice_are_counted(tables, spread_keys):
    with psycopg.connect(spread_keys) as connection:
        connection.execute(SESSION)
        for name, kind in (("a", "apn"), ("b", "apn"), ("c", "gcm"), ("d", "voip")):
            connection.execute(DEVICE, [name, name, kind])
    state, says = tables("citus")
    assert state == "warning"
    assert "held twice: 2 registrations → run `push-tokens sweep`" in says


def test_in_a_large_table_a_part_is_looked_at(tables, spread_keys, monkeypatch):
    one, limits = doctor_tables._one, [r"LIMIT \d+", "(?!)"]

    def slow(connection, query):
        if query.startswith(doctor_tables.DOUBLES[:20]) and not re.search(limits[0], query):
            raise errors.QueryCanceled
        return one(connection, query)

    monkeypatch.setattr(doctor_tables, "_one", slow)
    assert tables("citus")[1].endswith("no device is held twice among 10,000 registrations")
    limits.reverse()  # not even a part is through in time
    state, says = tables("citus")
    assert state == "right"
    assert "`push-tokens sweep --dry-run` counts" in says


def test_spread_by_citus(tables, spread_keys, played):
    name = "the tables have the keys of spread ones"
    assert tables("citus")[1].startswith(name)
    played("h", "user_sessions")
    state, says = tables("citus")
    assert state == "wrong"
    assert "only one of two tables is spread → run spread.sql or gather.sql again" in says
    played("h", "push_tokens")
    name = "the tables are spread over the nodes of Citus"
    assert tables("citus") == ("right", f"{name}, and no device is held twice")
    assert tables(None)[0] == "wrong"
    with psycopg.connect(spread_keys) as connection:
        connection.execute("UPDATE pg_dist_local_group SET groupid = 1")
    state, says = tables("citus")
    assert state == "wrong"
    assert "this one is a worker → name the coordinator" in says


def test_a_schema_that_citus_places(tables, played):
    assert tables(None) == ("right", "the tables are on one PostgreSQL, the coordinator of Citus")
    played("n")
    name = "the tables are in a schema that Citus places on a node"
    assert tables("citus") == ("right", name)
    assert tables(None) == (
        "wrong",
        f"{name} → set DATABASE_DISTRIBUTED=citus, as deploy/citus/README.md says",
    )


def test_on_citus_a_roles_lock_timeout_is_in_force(tables, url):
    with psycopg.connect(url) as connection:
        name = sql.Identifier(connection.info.dbname)
        for setting in ("lock_timeout = '1s'", "DateStyle = 'German'"):
            connection.execute(sql.SQL(f"ALTER DATABASE {{}} SET {setting}").format(name))
    assert "so DateStyle, lock_timeout of the role" in tables(None, "session")[1]
    assert "so DateStyle of the role" in tables("citus", "session")[1]
