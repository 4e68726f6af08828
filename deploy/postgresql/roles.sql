-- The roles of the push token registry: one migrates, one serves, one issues service keys, one
-- reports.
--
--   psql -X -v ON_ERROR_STOP=1 -d push_tokens -f deploy/postgresql/roles.sql
--
-- as a superuser, on the registry's database: before the first migration, and again after each.
-- It may be run at any time and changes nothing the second time. Other names:
--   -v owner=… -v app=… -v issuer=… -v report=…
-- Another schema than public, which is made where it is not there: -v schema=…
-- The roles have no passwords: set them (\password), or allow the roles in pg_hba.conf.

\if :{?owner}
\else
    \set owner push_tokens_owner
\endif
\if :{?app}
\else
    \set app push_tokens_app
\endif
\if :{?issuer}
\else
    \set issuer push_tokens_issuer
\endif
\if :{?report}
\else
    \set report push_tokens_report
\endif

\if :{?schema}
\else
    \set schema public
\endif

SET client_min_messages = warning;
SET search_path = :"schema";

SELECT format('CREATE ROLE %I LOGIN', name)
FROM unnest(ARRAY[:'owner', :'app', :'issuer', :'report']) AS name
WHERE name NOT IN (SELECT rolname FROM pg_roles)
\gexec

-- A managed server's administrator is no superuser, and has to be a member to hand over tables.
SELECT format('GRANT %I TO CURRENT_USER', :'owner')
WHERE NOT pg_has_role(current_user, :'owner', 'USAGE')
\gexec

BEGIN;

SELECT format('CREATE SCHEMA %I', :'schema')
WHERE :'schema' NOT IN (SELECT nspname FROM pg_namespace)
\gexec

-- No rights for other roles of the server.
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database()) \gexec
REVOKE ALL ON SCHEMA :"schema" FROM PUBLIC;
SELECT format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), name)
FROM unnest(ARRAY[:'owner', :'app', :'issuer', :'report']) AS name
\gexec

-- The role that migrates owns the tables and may make new ones.
GRANT USAGE, CREATE ON SCHEMA :"schema" TO :"owner";

-- The role of gunicorn and of most commands: rights on rows, and no table of its own except the
-- temporary ones of `push-tokens import`. It reads service keys and cannot make itself one.
GRANT USAGE ON SCHEMA :"schema" TO :"app";
SELECT format('GRANT TEMPORARY ON DATABASE %I TO %I', current_database(), :'app') \gexec

-- The role of `service-keys`: it issues and revokes keys, and sees no registration.
GRANT USAGE ON SCHEMA :"schema" TO :"issuer";

-- The role that reports. A long transaction keeps dead rows from being removed, so it has limits.
GRANT USAGE ON SCHEMA :"schema" TO :"report";
ALTER ROLE :"report" SET default_transaction_read_only = on;
ALTER ROLE :"report" SET statement_timeout = '5min';
ALTER ROLE :"report" SET idle_in_transaction_session_timeout = '1min';

SELECT to_regclass('push_tokens') IS NOT NULL AS is_migrated,
    to_regclass('service_keys') IS NOT NULL AS has_service_keys,
    to_regclass('service_key_events') IS NOT NULL AS has_key_events,
    EXISTS (
        SELECT FROM pg_attribute
        WHERE attrelid = to_regclass('push_tokens') AND attname = 'environment'
    ) AS has_environment,
    to_regclass('pg_dist_partition') IS NOT NULL AS has_citus \gset

-- Citus knows no rights on single columns of a table that it distributes: there the role that
-- reports gets none, and the one that issues keys may change what it else could only add.
\if :has_citus
    SELECT to_regclass('push_tokens') IN (SELECT logicalrelid FROM pg_dist_partition)
            IS NOT TRUE AS tokens_take_columns,
        to_regclass('service_keys') IN (SELECT logicalrelid FROM pg_dist_partition)
            IS NOT TRUE AS keys_take_columns \gset
\else
    \set tokens_take_columns yes
    \set keys_take_columns yes
\endif

\if :is_migrated
    -- Tables that an earlier install made as another role.
    SELECT format('ALTER TABLE %I.%I OWNER TO %I', schemaname, tablename, :'owner')
    FROM pg_tables
    WHERE schemaname = :'schema' AND tableowner <> :'owner'
        AND tablename IN ('alembic_version', 'user_sessions', 'push_tokens', 'service_keys',
            'service_key_uses', 'service_key_events')
    ORDER BY tablename
    \gexec

    REVOKE ALL ON alembic_version, user_sessions, push_tokens FROM :"app", :"issuer", :"report";
    GRANT SELECT ON alembic_version TO :"app", :"issuer";
    GRANT SELECT, INSERT, UPDATE, DELETE ON user_sessions, push_tokens TO :"app";
    -- Counts, users, ages; no push token, no hash and no device's id.
    GRANT SELECT ON alembic_version TO :"report";
    \if :tokens_take_columns
        GRANT SELECT (user_id, created_at, expires_at, verified_at, can_sign_in)
            ON user_sessions TO :"report";
        GRANT SELECT (app_name, type, user_id, enabled, created_at, updated_at)
            ON push_tokens TO :"report";
        \if :has_environment
            GRANT SELECT (environment) ON push_tokens TO :"report";
        \endif
    \endif
\endif

\if :has_service_keys
    REVOKE ALL ON service_keys FROM :"app", :"issuer", :"report";
    GRANT SELECT ON service_keys TO :"app";
    GRANT SELECT, INSERT ON service_keys TO :"issuer";
    \if :keys_take_columns
        GRANT UPDATE (revoked_at) ON service_keys TO :"issuer";  -- never changed or removed
        GRANT SELECT (name, scopes, created_at, revoked_at) ON service_keys TO :"report";
    \else
        GRANT UPDATE ON service_keys TO :"issuer";
    \endif
\endif

\if :has_key_events
    REVOKE ALL ON service_key_uses, service_key_events FROM :"app", :"issuer", :"report";
    GRANT SELECT, INSERT, UPDATE ON service_key_uses TO :"app";
    GRANT SELECT ON service_key_uses TO :"issuer";
    \if :keys_take_columns
        -- Only added to; the database itself writes down when it was, and which role it was.
        GRANT SELECT, INSERT (event, name, key_id, scopes, app_names)
            ON service_key_events TO :"issuer";
        GRANT SELECT (app_names, expires_at) ON service_keys TO :"report";
    \else
        GRANT SELECT, INSERT ON service_key_events TO :"issuer";
    \endif
    GRANT SELECT ON service_key_events TO :"report";
\endif

COMMIT;
