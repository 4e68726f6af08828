"""Stand-ins of Citus on a plain PostgreSQL: functions of its names, which write down their calls.

They refuse what Citus 13.2 refuses, as far as deploy/citus/ could run into it, and lose what it
loses; they spread nothing.
"""

import os
import subprocess
from pathlib import Path

import psycopg

from app.config import ROOT
from app.database import embedded

SCRIPTS = ROOT / "deploy" / "citus"

STAND_INS = """
SET allow_system_table_mods = on;
SET search_path = pg_catalog, public;
CREATE TABLE pg_dist_partition (logicalrelid regclass PRIMARY KEY, partmethod "char" NOT NULL);
CREATE TABLE pg_dist_local_group (groupid integer NOT NULL);
INSERT INTO pg_dist_local_group VALUES (0);
CREATE TABLE citus_schemas (schema_name regnamespace PRIMARY KEY);
CREATE TABLE calls (id bigint GENERATED ALWAYS AS IDENTITY, call text NOT NULL);
-- Who may connect to the workers: the roles that roles.sql made there, before Citus came.
CREATE TABLE admitted (name name PRIMARY KEY, on_every_node boolean NOT NULL);
INSERT INTO admitted SELECT DISTINCT grantee::regrole::name, true
    FROM pg_database, aclexplode(datacl) WHERE datname = current_database() AND grantee <> 0;
GRANT SELECT ON pg_dist_partition, pg_dist_local_group TO PUBLIC;

CREATE FUNCTION create_distributed_table(
    table_name regclass, distribution_column text, distribution_type text DEFAULT 'hash',
    colocate_with text DEFAULT 'default', shard_count integer DEFAULT NULL
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF EXISTS (
        SELECT FROM pg_index JOIN pg_attribute ON attrelid = indrelid
        WHERE indrelid = table_name AND indisunique AND attname = distribution_column
            AND attnum <> ALL (indkey::smallint[])
    ) THEN
        RAISE EXCEPTION 'cannot create constraint on "%"', table_name;
    END IF;
    IF EXISTS (
        SELECT FROM pg_constraint
        WHERE contype = 'f' AND table_name IN (conrelid, confrelid)
    ) THEN
        RAISE EXCEPTION 'cannot create foreign key constraint';
    END IF;
    INSERT INTO pg_dist_partition VALUES (table_name, 'h');
    INSERT INTO calls (call) VALUES (format('create_distributed_table(%s, %s, %s, %s)',
        table_name, distribution_column, colocate_with, shard_count));
END $$;

CREATE FUNCTION undistribute_table(
    table_name regclass, cascade_via_foreign_keys boolean DEFAULT false
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    name name;
BEGIN
    DELETE FROM pg_dist_partition WHERE logicalrelid = table_name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'cannot undistribute table because the table is not distributed';
    END IF;
    EXECUTE format('COMMENT ON TABLE %s IS NULL', table_name);
    FOR name IN SELECT attname FROM pg_attribute WHERE attrelid = table_name AND attnum > 0 LOOP
        EXECUTE format('COMMENT ON COLUMN %s.%I IS NULL', table_name, name);
    END LOOP;
    INSERT INTO calls (call) VALUES (format('undistribute_table(%s)', table_name));
END $$;

CREATE FUNCTION truncate_local_data_after_distributing_table(function_table_name regclass)
RETURNS void LANGUAGE sql SECURITY DEFINER AS $$
    INSERT INTO calls (call) VALUES (format('truncate_local_data(%s)', function_table_name))
$$;

CREATE FUNCTION citus_schema_distribute(schemaname regnamespace)
RETURNS void LANGUAGE sql SECURITY DEFINER AS $$
    INSERT INTO citus_schemas VALUES (schemaname) ON CONFLICT DO NOTHING;
    INSERT INTO pg_dist_partition SELECT oid, 'n' FROM pg_class
        WHERE relkind = 'r' AND relnamespace = schemaname ON CONFLICT DO NOTHING;
    INSERT INTO calls (call) VALUES (format('citus_schema_distribute(%s)', schemaname))
$$;

CREATE FUNCTION run_command_on_workers(
    command text, OUT nodename text, OUT nodeport integer, OUT success boolean, OUT result text
) RETURNS SETOF record LANGUAGE plpgsql AS $$
BEGIN
    nodename := 'worker';
    success := true;
    EXECUTE command;
    INSERT INTO admitted SELECT name, false
        FROM regexp_matches(command, 'GRANT CONNECT ON DATABASE \\S+ TO ([^;]+);') named,
            regexp_split_to_table(named[1], ', ') AS name
        ON CONFLICT DO NOTHING;
    RETURN NEXT;
EXCEPTION WHEN OTHERS THEN
    success := false;
    result := sqlerrm;
    RETURN NEXT;
END $$;

CREATE FUNCTION citus_set_coordinator_host(host text, port integer DEFAULT 5432)
RETURNS void LANGUAGE sql AS 'SELECT';
-- A new node has the roles that roles.sql made there; others come without the right to connect.
CREATE FUNCTION citus_add_node(nodename text, nodeport integer) RETURNS integer LANGUAGE sql AS $$
    DELETE FROM admitted WHERE NOT on_every_node;
    SELECT 1
$$;
CREATE FUNCTION connect_to_worker(name name) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF name NOT IN (
        SELECT rolname FROM pg_roles WHERE rolsuper UNION ALL SELECT a.name FROM admitted a
    ) THEN
        RAISE EXCEPTION 'connection to the remote node %@worker failed with the following error:'
            ' FATAL:  permission denied for database', name;
    END IF;
END $$;
CREATE FUNCTION citus_check_cluster_node_health(OUT result boolean)
RETURNS SETOF boolean LANGUAGE sql AS 'SELECT true';
-- Citus moves the parts of a table as its owner.
CREATE FUNCTION citus_rebalance_start() RETURNS bigint LANGUAGE sql AS $$
    SELECT connect_to_worker(relowner::regrole::name)
        FROM pg_dist_partition JOIN pg_class ON oid = logicalrelid;
    SELECT 1::bigint
$$;
CREATE FUNCTION citus_rebalance_status(OUT state text, OUT details jsonb)
RETURNS SETOF record LANGUAGE sql AS $$ SELECT 'finished', '{}'::jsonb $$;
CREATE FUNCTION citus_create_restore_point(text)
RETURNS pg_lsn LANGUAGE sql AS $$ SELECT '0/0'::pg_lsn $$;

CREATE FUNCTION place_table() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO pg_dist_partition
    SELECT objid, 'n' FROM pg_event_trigger_ddl_commands()
    WHERE object_type = 'table' AND schema_name::regnamespace IN (SELECT * FROM citus_schemas)
    ON CONFLICT DO NOTHING;
END $$;
CREATE EVENT TRIGGER place_table ON ddl_command_end WHEN TAG IN ('CREATE TABLE')
    EXECUTE FUNCTION place_table();

CREATE FUNCTION refuse_trigger() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM pg_event_trigger_ddl_commands() JOIN pg_trigger ON oid = objid
        WHERE tgrelid IN (SELECT logicalrelid FROM pg_dist_partition)
    ) THEN
        RAISE EXCEPTION 'triggers are not supported on distributed tables';
    END IF;
END $$;
CREATE EVENT TRIGGER refuse_trigger ON ddl_command_end WHEN TAG IN ('CREATE TRIGGER')
    EXECUTE FUNCTION refuse_trigger();

-- Citus makes a function on every node, as the role that makes it here.
CREATE FUNCTION hand_on_function() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM connect_to_worker(session_user);
END $$;
CREATE EVENT TRIGGER hand_on_function ON ddl_command_end WHEN TAG IN ('CREATE FUNCTION')
    EXECUTE FUNCTION hand_on_function();

CREATE FUNCTION refuse_columns() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_query() ~ '^[^;]*GRANT[^;]*\\([^;]* ON [^;]*' AND EXISTS (
        SELECT FROM pg_dist_partition
        WHERE current_query() ~ (' ON ' || logicalrelid || '\\M')
    ) THEN
        RAISE EXCEPTION 'grant/revoke on column list is currently unsupported';
    END IF;
END $$;
CREATE EVENT TRIGGER refuse_columns ON ddl_command_start WHEN TAG IN ('GRANT')
    EXECUTE FUNCTION refuse_columns();
"""
BROKEN_WORKER = """
SET allow_system_table_mods = on;
CREATE OR REPLACE FUNCTION pg_catalog.run_command_on_workers(
    command text, OUT nodename text, OUT nodeport integer, OUT success boolean, OUT result text
) RETURNS SETOF record LANGUAGE sql AS $$ SELECT 'worker', 5432, false, 'no such role' $$
"""
DROP = """
SET allow_system_table_mods = on;
DROP EVENT TRIGGER refuse_columns;
DROP EVENT TRIGGER hand_on_function;
DROP EVENT TRIGGER refuse_trigger;
DROP EVENT TRIGGER place_table;
DROP FUNCTION refuse_columns, hand_on_function, connect_to_worker, refuse_trigger, place_table,
    citus_schema_distribute, create_distributed_table, undistribute_table,
    truncate_local_data_after_distributing_table, run_command_on_workers,
    citus_set_coordinator_host, citus_add_node, citus_check_cluster_node_health,
    citus_rebalance_start, citus_rebalance_status, citus_create_restore_point;
DROP TABLE pg_dist_partition, pg_dist_local_group, citus_schemas, calls, admitted;
"""


def stand_in(url: str) -> None:
    """Make the stand-ins where Citus has its functions: in pg_catalog, as a superuser."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(STAND_INS)


def stand_out(url: str) -> None:
    """Drop the stand-ins again."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(DROP)


def calls(url: str) -> list[str]:
    """Return what the stand-ins were called with, in order, and forget it."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute("SELECT call FROM calls ORDER BY id").fetchall()
        connection.execute("DELETE FROM calls")
    return [call for (call,) in found]


def run(script: Path | str, url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script of deploy/citus/ with psql, as its first lines say."""
    psql = str(embedded.binaries() / "psql")
    return subprocess.run(
        [psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", *arguments, url, "-f", str(SCRIPTS / script)],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
