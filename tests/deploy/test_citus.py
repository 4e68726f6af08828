"""deploy/citus/: the scripts forth and back, on rows; what Citus does itself is played."""

import psycopg
import pytest

from tests.support import citus
from tests.support.citus import run
from tests.support.databases import migrate
from tests.support.filled import contents, fill
from tests.support.roles import Roles, psql

SHAPE = """
SELECT 'constraint', conrelid::regclass::text || ' ' || conname || ' ' || pg_get_constraintdef(oid)
FROM pg_constraint WHERE conrelid IN ('push_tokens'::regclass, 'user_sessions'::regclass)
UNION ALL
SELECT 'index', pg_get_indexdef(indexrelid) FROM pg_index
WHERE indrelid IN ('push_tokens'::regclass, 'user_sessions'::regclass)
UNION ALL
SELECT 'comment', objoid::regclass::text || ' ' || objsubid || ' ' || description
FROM pg_description WHERE objoid IN ('push_tokens'::regclass, 'user_sessions'::regclass)
UNION ALL
SELECT 'right', attrelid::regclass::text || ' ' || attname || ' ' || attacl::text FROM pg_attribute
WHERE attrelid IN ('push_tokens'::regclass, 'user_sessions'::regclass) AND attacl IS NOT NULL
"""
# What no foreign key and no unique index of devices lets in: one device twice, and an orphan.
LEFT_BY_RACES = """
INSERT INTO push_tokens (id, app_name, token, type, user_id, session_hash, device_id, updated_at)
SELECT id || n, app_name, token || n, type, user_id, session_hash, device_id,
    updated_at - n * interval '1 minute'
FROM (SELECT * FROM push_tokens ORDER BY id LIMIT 2) held, generate_series(1, 2) n;
INSERT INTO push_tokens (id, app_name, token, type, user_id, session_hash, device_id)
VALUES ('orphan', 'app0', 'orphan', 'gcm', 'user0', sha256('gone'), 'orphan');
"""
REFUSED = "registrations stand against the keys; no row and no key was changed"


@pytest.fixture(scope="module")
def roles(new_database):
    """The roles on a migrated and filled database; each test leaves it as it was."""
    with Roles.migrated(new_database()) as roles:
        fill(roles.database)
        yield roles


@pytest.fixture
def played(roles):
    """The same, with Citus played."""
    citus.stand_in(roles.database)
    yield roles
    citus.stand_out(roles.database)


def shape(url: str) -> dict[str, str]:
    """Return constraints, indexes, comments and rights of both tables."""
    with psycopg.connect(url) as connection:
        return {text: kind for kind, text in connection.execute(SHAPE)}


def database(url: str) -> str:
    with psycopg.connect(url) as connection:
        return connection.info.dbname


def execute(url: str, statements: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(statements)


def passes(script: str, url: str, *arguments: str) -> str:
    done = run(script, url, *arguments)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


def test_the_keys_go_forth_and_back(roles):
    owner = roles.url("owner")
    before, rows = shape(owner), contents(roles.database)
    for _ in range(2):  # a second run changes nothing
        passes("keys.sql", owner)
        spread = shape(owner)
        assert {
            "CREATE UNIQUE INDEX pk_push_tokens ON public.push_tokens USING btree (id, token)",
            "CREATE INDEX ix_push_tokens_device ON public.push_tokens USING btree"
            " (user_id, app_name, device_id, ((type = 'voip'::text)))",
        } <= spread.keys()
        assert not [text for text in spread if "FOREIGN KEY" in text or "uq_push_tokens_d" in text]
    for _ in range(2):
        assert passes("keys-back.sql", owner).startswith("0 registrations have no session, 0 are")
        assert shape(owner) == before
    assert contents(roles.database) == rows


def test_what_races_left_is_deleted_only_where_that_is_asked_for(roles):
    owner = roles.url("owner")
    before, rows = shape(owner), contents(roles.database)
    passes("keys.sql", owner)
    execute(roles.database, LEFT_BY_RACES)
    spread, more = shape(owner), contents(roles.database)
    assert len(more["push_tokens"]) == len(rows["push_tokens"]) + 5
    for _ in range(2):
        done = run("keys-back.sql", owner)
        assert done.returncode == 3
        assert done.stdout.startswith("1 registrations have no session, 4 are of a device")
        assert REFUSED in done.stderr
        assert shape(owner) == spread
        assert contents(roles.database) == more
    passes("keys-back.sql", owner, "-v", "remove=yes")
    assert shape(owner) == before
    assert contents(roles.database) == rows


def test_spread_and_gathered_again(played):
    owner = played.url("owner")
    before, rows = shape(owner), contents(played.database)
    passes("spread.sql", owner)
    assert citus.calls(played.database) == [
        "create_distributed_table(user_sessions, token_hash, default, 12)",
        "create_distributed_table(push_tokens, token, none, 12)",
        "truncate_local_data(user_sessions)",
        "truncate_local_data(push_tokens)",
    ]
    played.grant()  # rights on columns are refused now
    assert "right" not in shape(owner).values()
    # Again it does what is left: the stand-in leaves rows here, as a psql that was killed would.
    passes("spread.sql", owner, "-v", "shards=32")
    assert {call.split("(")[0] for call in citus.calls(played.database)} == {"truncate_local_data"}
    execute(played.database, LEFT_BY_RACES)
    done = run("gather.sql", owner)
    assert done.returncode == 3
    assert REFUSED in done.stderr
    undone = ["undistribute_table(push_tokens)", "undistribute_table(user_sessions)"]
    assert citus.calls(played.database) == undone
    passes("gather.sql", owner, "-v", "remove=yes")
    assert citus.calls(played.database) == []
    played.grant()
    assert shape(owner) == before
    left = contents(played.database)
    assert {table: left[table] for table in rows} == rows


def test_spread_half_way_it_goes_on(played):
    owner = played.url("owner")
    before = shape(owner)
    passes("spread.sql", owner, "-v", "shards=4")
    execute(played.database, "DELETE FROM pg_dist_partition WHERE logicalrelid::text ~ 'tokens'")
    citus.calls(played.database)
    passes("spread.sql", owner, "-v", "shards=4")
    assert "create_distributed_table(push_tokens, token, none, 4)" in citus.calls(played.database)
    execute(played.database, "DELETE FROM pg_dist_partition WHERE logicalrelid::text ~ 'tokens'")
    passes("gather.sql", owner)
    assert citus.calls(played.database) == ["undistribute_table(user_sessions)"]
    played.grant()
    assert shape(owner) == before


def test_what_has_partitions_is_refused(roles):
    before = shape(roles.database)
    halved = (citus.SCRIPTS.parent / "postgresql" / "partition.sql").read_text()
    psql(roles.database, halved, "-v", "partitions=2")
    for script in ("keys.sql", "keys-back.sql"):
        done = run(script, roles.url("owner"))
        assert done.returncode == 3
        assert "push_tokens has partitions" in done.stderr
    psql(roles.database, halved, "-v", "partitions=0")
    assert shape(roles.database) == before


def test_spreading_needs_citus(roles):
    before = shape(roles.database)
    done = run("spread.sql", roles.url("owner"))
    assert done.returncode == 3
    assert "this database has no Citus" in done.stderr
    assert shape(roles.database) == before


def test_a_tenants_schema_is_placed_and_its_rights_are_whole_tables(new_database):
    url = new_database()
    citus.stand_in(url)
    with Roles.on(url, "tenant_a") as tenant:
        for _ in range(2):
            passes("connect.sql", url, "-v", "schema=tenant_a")
        migrate(tenant.url("owner"), "upgrade", "head")
        execute(url, f"REVOKE CONNECT ON DATABASE {database(url)} FROM {tenant.names['app']}")
        for _ in range(2):
            passes("tenant.sql", url, "-v", "schema=tenant_a")
        assert citus.calls(url) == ["citus_schema_distribute(tenant_a)"] * 2
        tenant.grant()
        with psycopg.connect(tenant.url("issuer")) as issuer:
            query = "SELECT has_table_privilege('service_keys', 'UPDATE')"
            assert issuer.execute(query).fetchone() == (True,)
        with psycopg.connect(tenant.url("report")) as report:
            query = "SELECT has_any_column_privilege('push_tokens', 'SELECT')"
            assert report.execute(query).fetchone() == (False,)
        with psycopg.connect(tenant.url("app")) as app:  # as it could not, but for tenant.sql
            assert app.execute("SELECT count(*) FROM push_tokens").fetchone() == (0,)


def test_a_node_that_lets_no_tenant_connect_is_named(new_database):
    url = new_database()
    citus.stand_in(url)
    done = run("connect.sql", url, "-v", "schema=tenant_a")
    assert done.returncode == 3
    assert "there is no such schema" in done.stderr
    with Roles.on(url, "tenant_a"):
        broken = citus.BROKEN_WORKER
        execute(url, broken)
        for script in ("connect.sql", "tenant.sql"):
            done = run(script, url, "-v", "schema=tenant_a")
            assert done.returncode == 3
            assert "worker: no such role" in done.stdout
            assert "not every node lets the roles of the tenant connect" in done.stderr
