-- Lets the roles of one tenant connect to every node. Run it on the coordinator as a superuser, once
-- roles.sql has made schema and roles, and again after a node was added:
--
--     psql -X -v ON_ERROR_STOP=1 -v schema=tenant_a "$ADMIN_URL" -f deploy/citus/connect.sql
--
-- roles.sql takes from PUBLIC the right to connect, and Citus may not hand on the one that it gives.
-- Before the migrations: Citus makes the function of an early one on every node, as the role that
-- migrates; and before parts are moved, which it does as the role that owns them.
-- Run again it changes nothing.

\set ON_ERROR_STOP on
SET client_min_messages = warning;

SELECT format(
        'DO %L', format(
            'BEGIN
                PERFORM set_config(''citus.enable_ddl_propagation'', ''off'', true);
                GRANT CONNECT ON DATABASE %I TO %s;
            END', current_database(), string_agg(DISTINCT grantee::regrole::text, ', ')
        )
    ) AS let_connect,
    count(*) = 0 AS has_no_roles
FROM pg_namespace, aclexplode(nspacl) WHERE nspname = :'schema' AND grantee <> 0 \gset
\if :has_no_roles
    DO $$ BEGIN
        RAISE EXCEPTION 'there is no such schema, or no role has rights on it'
            USING HINT = 'run deploy/postgresql/roles.sql for it first.';
    END $$;
\endif
SELECT string_agg(nodename || ': ' || result, E'\n') IS NOT NULL AS some_failed,
    string_agg(nodename || ': ' || result, E'\n') AS failures
FROM run_command_on_workers(:'let_connect') WHERE NOT success \gset
\if :some_failed
    \echo :failures
    DO $$ BEGIN
        RAISE EXCEPTION 'not every node lets the roles of the tenant connect';
    END $$;
\endif
