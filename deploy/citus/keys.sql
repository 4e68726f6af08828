-- The keys of spread tables. On Citus every unique key must have the column that its table is
-- spread by, and a foreign key the columns of both, so
--
--     THE FOREIGN KEY OF REGISTRATIONS TO SESSIONS GOES,
--     AND NOTHING HOLDS A DEVICE TO ONE REGISTRATION ANY MORE,
--
-- but the service itself, with DATABASE_DISTRIBUTED=citus: never serve on these keys without it.
-- spread.sql runs this, keys-back.sql is the way back; run again it changes nothing.

\set ON_ERROR_STOP on
SET client_min_messages = warning;

SELECT EXISTS (SELECT FROM pg_inherits WHERE inhparent = 'push_tokens'::regclass)
    AS has_partitions \gset
\if :has_partitions
    DO $$ BEGIN
        RAISE EXCEPTION 'push_tokens has partitions'
            USING HINT = 'make it one table first: deploy/postgresql/partition.sql -v partitions=0';
    END $$;
\endif

SELECT EXISTS (
        SELECT FROM pg_constraint
        WHERE conrelid = 'push_tokens'::regclass AND contype = 'p' AND cardinality(conkey) = 1
    ) AS id_is_key,
    to_regclass('uq_push_tokens_device') IS NOT NULL AS devices_are_unique \gset

ALTER TABLE push_tokens DROP CONSTRAINT IF EXISTS fk_push_tokens_session_hash_user_sessions;

\if :id_is_key
    ALTER TABLE push_tokens
        DROP CONSTRAINT pk_push_tokens,
        ADD CONSTRAINT pk_push_tokens PRIMARY KEY (id, token);
\endif

\if :devices_are_unique
    CREATE INDEX ix_push_tokens_device
        ON push_tokens (user_id, app_name, device_id, (type = 'voip'));
    DROP INDEX uq_push_tokens_device;
\endif
