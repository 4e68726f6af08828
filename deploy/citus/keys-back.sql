-- The keys of one PostgreSQL again, on tables that are not spread; gather.sql runs it.
--
--     WHERE A DEVICE IS HELD TWICE, OR A REGISTRATION HAS NO SESSION, IT CHANGES NOTHING AND SAYS
--     HOW MANY. WITH -v remove=yes IT DELETES THEM: ALL BUT THE LATEST REGISTRATION OF A DEVICE,
--     AND EVERY REGISTRATION WITHOUT A SESSION.
--
-- `push-tokens sweep` removes the same rows, and may run before. One transaction: what fails leaves
-- everything as it was. Run again it changes nothing.

\set ON_ERROR_STOP on
SET client_min_messages = warning;
\if :{?remove}
\else
    \set remove no
\endif

SELECT EXISTS (SELECT FROM pg_inherits WHERE inhparent = 'push_tokens'::regclass)
    AS has_partitions \gset
\if :has_partitions
    DO $$ BEGIN
        RAISE EXCEPTION 'push_tokens has partitions'
            USING HINT = 'make it one table first: deploy/postgresql/partition.sql -v partitions=0';
    END $$;
\endif

BEGIN;
SET LOCAL lock_timeout = '5s';
LOCK TABLE user_sessions, push_tokens IN ACCESS EXCLUSIVE MODE;

SELECT EXISTS (
        SELECT FROM pg_constraint
        WHERE conrelid = 'push_tokens'::regclass AND contype = 'p' AND cardinality(conkey) = 2
    ) AS key_has_token,
    to_regclass('uq_push_tokens_device') IS NULL AS lacks_unique_devices,
    NOT EXISTS (
        SELECT FROM pg_constraint WHERE conrelid = 'push_tokens'::regclass AND contype = 'f'
    ) AS lacks_foreign_key \gset

\if :lacks_foreign_key
    SELECT count(*) AS orphans FROM push_tokens p
    WHERE NOT EXISTS (SELECT FROM user_sessions s WHERE s.token_hash = p.session_hash) \gset
\else
    \set orphans 0
\endif
\if :lacks_unique_devices
    SELECT coalesce(sum(held - 1), 0) AS doubles FROM (
        SELECT count(*) AS held FROM push_tokens p
        WHERE EXISTS (SELECT FROM user_sessions s WHERE s.token_hash = p.session_hash)
        GROUP BY user_id, app_name, device_id, type = 'voip'
    ) devices \gset
\else
    \set doubles 0
\endif
\echo :orphans registrations have no session, :doubles are of a device that has a later one.

SELECT :orphans + :doubles > 0 AS some_must_go, :'remove' = 'yes' AS may_remove \gset
\if :some_must_go
    \if :may_remove
        DELETE FROM push_tokens p
        WHERE NOT EXISTS (SELECT FROM user_sessions s WHERE s.token_hash = p.session_hash);
        DELETE FROM push_tokens WHERE (id, token) IN (
            SELECT id, token FROM (
                SELECT id, token, row_number() OVER (
                    PARTITION BY user_id, app_name, device_id, type = 'voip'
                    ORDER BY updated_at DESC, id DESC
                ) AS place
                FROM push_tokens
            ) numbered
            WHERE place > 1
        );
    \else
        DO $$ BEGIN
            RAISE EXCEPTION 'registrations stand against the keys; no row and no key was changed'
                USING HINT = 'run "DATABASE_DISTRIBUTED=citus push-tokens sweep", and then this'
                    ' script again; or give it -v remove=yes, which deletes them.';
        END $$;
    \endif
\endif

\if :key_has_token
    ALTER TABLE push_tokens
        DROP CONSTRAINT pk_push_tokens,
        ADD CONSTRAINT pk_push_tokens PRIMARY KEY (id);
\endif
\if :lacks_unique_devices
    CREATE UNIQUE INDEX uq_push_tokens_device
        ON push_tokens (user_id, app_name, device_id, (type = 'voip'));
    DROP INDEX IF EXISTS ix_push_tokens_device;
\endif
\if :lacks_foreign_key
    ALTER TABLE push_tokens ADD CONSTRAINT fk_push_tokens_session_hash_user_sessions
        FOREIGN KEY (session_hash) REFERENCES user_sessions (token_hash) ON DELETE CASCADE;
\endif
COMMIT;
