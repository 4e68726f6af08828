"""deploy/postgresql/partition.sql: push_tokens in 16 partitions and back, all promises kept.

`pytest --partitioned` runs the other tests on partitions too.
"""

import hashlib
import threading
from typing import Any

import psycopg
import pytest

from app.registry.registration import Registered, Registration
from app.transfer import import_sql
from tests.support.databases import migrate
from tests.support.filled import fill
from tests.support.registering import connect, run, run_all
from tests.support.roles import Roles, partition

SHAPE = """
SELECT relowner::regrole::text, obj_description(oid), array_agg(acl::text ORDER BY acl::text),
    (SELECT array_agg((attname, attnotnull, attacl::text, col_description(oid, attnum))::text)
    FROM pg_attribute WHERE attrelid = oid AND attnum > 0),
    (SELECT array_agg((conname, contype)::text ORDER BY conname)
    FROM pg_constraint WHERE conrelid = oid),
    (SELECT array_agg(indexrelid::regclass::text ORDER BY indexrelid::regclass::text)
    FROM pg_index WHERE indrelid = oid)
FROM pg_class, unnest(relacl) acl
WHERE oid = 'push_tokens'::regclass
GROUP BY oid, relowner
"""
# What of it is data: the tables that are no parents.
STORED = """
SELECT relowner::regrole::text, reloptions FROM pg_class
WHERE relkind = 'r' AND relname ~ '^push_tokens'
"""
HOLDS_DEVICES = (
    "SELECT indisunique FROM pg_index WHERE indexrelid = 'uq_push_tokens_device'::regclass"
)

# How often the transaction so far has searched an index of a partition.
SEARCHED = """
SELECT sum(idx_scan) FROM pg_stat_xact_user_tables WHERE relname LIKE 'push_tokens_p%'
"""


# How many rows it has read there.
READ = """
SELECT sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_xact_user_tables
WHERE relname LIKE 'push_tokens_p%'
"""
SIGNED_IN = """
INSERT INTO user_sessions (token_hash, user_id)
SELECT sha256(convert_to(name, 'UTF8')), left(name, 5) FROM unnest(%s::text[]) AS name
"""


@pytest.fixture(scope="module")
def roles(new_database):
    """A database with rows, and roles that use it."""
    with Roles.migrated(new_database()) as roles:
        fill(roles.database)
        yield roles


@pytest.fixture(scope="module")
def partitioned(roles):
    """A connection to it, partitioned, that registers as the role that serves."""
    with psycopg.connect(roles.database, autocommit=True) as connection:
        connection.execute(SIGNED_IN, [["alice", "alice 2", "bobby"]])
        partition(roles.database)
    with connect(roles.url("app")) as connection:
        yield connection


def wants(token: str, device_id: str | None = None, session: str = "alice", **fields: Any) -> Any:
    hash_ = hashlib.sha256(session.encode()).digest()
    asked = Registration(hash_, session[:5], "app", token, "apn", device_id=device_id)
    return asked._replace(**fields)


def outcomes(connection: psycopg.Connection[Any], *asked: Registration) -> list[str]:
    results, lost = run_all(connection, asked)
    assert not lost
    return [result.outcome for result in results if result]


def of_device(connection: psycopg.Connection[Any], name: str) -> list[tuple[str, str]]:
    query = "SELECT token, type FROM push_tokens WHERE device_id = %s ORDER BY token"
    return connection.execute(query, [name]).fetchall()


def test_all_that_serves_is_found_again(partitioned):
    names = [None, "one", None, "two"]
    values = [wants(f"v{number}", name) for number, name in enumerate(names)]
    assert outcomes(partitioned, *values) == ["created"] * 4
    assert outcomes(partitioned, *values) == ["refreshed"] * 4
    rotated = [wants(f"w{number}", name) for number, name in enumerate(names)]
    assert outcomes(partitioned, *rotated) == ["created", "rotated"] * 2
    assert outcomes(partitioned, wants("w1", session="bobby")) == ["moved"]
    assert outcomes(partitioned, wants("w3", "two", voip_token="calls")) == ["refreshed"]
    assert of_device(partitioned, "two") == [("calls", "voip"), ("w3", "apn")]
    swapped = [wants("x1", "p"), wants("x2", "q"), wants("x2", "p"), wants("x1", "q")]
    for pair in (swapped[:2], swapped[2:]):
        outcomes(partitioned, *pair)
    assert [of_device(partitioned, name)[0][0] for name in "pq"] == ["x2", "x1"]


def test_a_row_in_the_same_place_of_another_partition_stays(partitioned):
    """Places (ctid) repeat from partition to partition."""
    places = [wants(f"place {number}", f"device {number}") for number in range(200)]
    outcomes(partitioned, *places)
    before = partitioned.execute("SELECT count(*) FROM push_tokens").fetchone()
    for number in range(0, 200, 10):
        assert outcomes(partitioned, wants(f"new {number}", f"device {number}")) == ["rotated"]
    assert partitioned.execute("SELECT count(*) FROM push_tokens").fetchone() == before
    assert of_device(partitioned, "device 10") == [("new 10", "apn")]


def test_a_push_token_is_looked_up_in_its_own_partition_only(partitioned):
    outcomes(partitioned, wants("known"))
    with partitioned.transaction(force_rollback=True):
        before = partitioned.execute(SEARCHED).fetchone()[0]
        assert outcomes(partitioned, wants("known")) == ["refreshed"]
        assert partitioned.execute(SEARCHED).fetchone()[0] - before == 1


def test_partitions_that_were_empty_when_planned_are_not_read_whole(new_database):
    url = new_database()
    migrate(url, "upgrade", "head")
    partition(url)
    users = [f"user{name}" for name in "abcdefghijklmnopqrst"]
    with psycopg.connect(url) as connection:
        connection.execute(SIGNED_IN, [users])
    with connect(url) as connection, connection.transaction():
        for group in range(10):
            asked = [wants(f"{group}{name}", f"{group}", session=name) for name in users]
            assert outcomes(connection, *asked) == ["created"] * 20
        assert connection.execute(READ).fetchone()[0] < 200


def test_an_import_looks_up_a_push_token_in_its_own_partition_only(roles, partitioned):
    """A device is looked up in all of them: the index of each holds its name."""
    with psycopg.connect(roles.url("app")) as connection:
        connection.execute(import_sql.PREPARE)
        connection.execute(
            "INSERT INTO staged (line, app_name, token, type, user_id, device_id, updated_at)"
            " VALUES (1, 'app', 'unknown', 'apn', 'alice', 'unknown', now())"
        )
        before = connection.execute(SEARCHED).fetchone()[0]
        assert connection.execute(import_sql.PICK_WINNERS).rowcount == 1
        assert connection.execute(SEARCHED).fetchone()[0] - before == 1 + 16


def test_a_device_that_came_while_one_waited_is_held_once(roles, partitioned):
    """The statement began before it was there; a unique index would tell, and is not there."""
    results: list[Any] = []
    hash_ = wants("")[0]
    with psycopg.connect(roles.database) as holding, connect(roles.url("app")) as waiting:
        holding.execute("SELECT 1 FROM user_sessions WHERE token_hash = %s FOR UPDATE", [hash_])
        thread = threading.Thread(
            target=lambda: results.extend(run(waiting, [wants("l", "late")]))
        )
        thread.start()
        blocked = "SELECT cardinality(pg_blocking_pids(%s))"
        while not holding.execute(blocked, [waiting.info.backend_pid]).fetchone()[0]:
            pass
        assert outcomes(partitioned, wants("f", "late", session="alice 2")) == ["created"]
        holding.rollback()
        thread.join()
    (result,) = results
    assert isinstance(result, Registered)
    assert result.outcome == "rotated"
    assert of_device(partitioned, "late") == [("l", "apn")]


def test_no_statement_brings_a_device_a_second_row(roles, partitioned):
    outcomes(partitioned, wants("held", "held"), wants("other", "other"))
    with psycopg.connect(roles.database) as connection:
        columns = "app_name, token, type, user_id, session_hash, device_id"
        add = f"INSERT INTO push_tokens (id, {columns}) SELECT 'x', app_name, 'y', type, user_id,"
        add += " session_hash, device_id FROM push_tokens WHERE token = 'held'"
        assert connection.execute(add).rowcount == 0
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("UPDATE push_tokens SET device_id = 'held' WHERE token = 'other'")


def test_goes_back_and_forth_with_all_that_it_has(roles, partitioned):
    everything = "SELECT * FROM push_tokens ORDER BY app_name, token"
    with psycopg.connect(roles.database, autocommit=True) as connection:
        found = {}
        for number in (16, 0, 3):
            if number != 16:
                partition(roles.url("owner"), number)  # who may make no temporary table
            connection.execute("DISCARD ALL")
            found[number] = [
                connection.execute(query).fetchall()
                for query in (SHAPE, STORED, HOLDS_DEVICES, everything)
            ]
        partition(roles.database, 0)
    shapes, stored, holds, rows = zip(*found.values(), strict=True)
    assert shapes[0] == shapes[1] == shapes[2]
    owner = roles.names["owner"]
    assert stored == tuple([(owner, ["fillfactor=85"])] * number for number in (16, 1, 3))
    assert holds == ([(False,)], [(True,)], [(False,)])
    assert len(rows[0]) > 500
    assert rows[0] == rows[1] == rows[2]


def test_the_migrations_and_the_models_agree_with_it(new_database):
    url = new_database()
    migrate(url, "upgrade", "head")
    partition(url)
    migrate(url, "upgrade", "head")
    migrate(url, "check")
    partition(url, 0)
    migrate(url, "check")
    migrate(url, "downgrade", "0007_environment_not_null")
