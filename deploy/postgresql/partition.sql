-- Makes push_tokens a table of hash partitions by push token, or of another number of them.
-- deploy/README.md says when that pays, and what it costs.
--
--   psql -X -v ON_ERROR_STOP=1 -d push_tokens -f deploy/postgresql/partition.sql
--
-- as a superuser or as the role that owns the tables, at the newest migration. 16 partitions, or
-- -v partitions=N; -v partitions=0 makes it one plain table again. Another schema than
-- public: -v schema=…
--
-- One transaction, which copies the table: it takes room for a second one with its indexes, and
-- minutes, in which lookups go on and what writes is answered 503. What fails changes nothing.
-- Owner, rights, comments, checks and storage parameters are kept.

\if :{?partitions}
\else
    \set partitions 16
\endif
\if :{?schema}
\else
    \set schema public
\endif

SET client_min_messages = warning;
SET search_path = :"schema";
SET maintenance_work_mem = '1GB';
SET statement_timeout = 0;

BEGIN;
-- Who writes meanwhile waits for us, holding a lock that the end needs, and gives up within a second.
SELECT set_config('deadlock_timeout', '5s', true) FROM pg_roles
WHERE rolname = current_user AND rolsuper \g /dev/null
SET LOCAL lock_timeout = '10s';
LOCK TABLE user_sessions IN SHARE ROW EXCLUSIVE MODE;
LOCK TABLE push_tokens IN EXCLUSIVE MODE;

SELECT set_config('registry.partitions', :'partitions', true) \g /dev/null
DO $$
DECLARE
    wanted integer := current_setting('registry.partitions');
BEGIN
    IF EXISTS (
        SELECT 1 FROM pg_attribute
        WHERE attrelid = 'push_tokens'::regclass AND attname = 'device_id' AND attnotnull
    ) IS FALSE OR to_regclass('ix_push_tokens_user_id') IS NOT NULL THEN
        RAISE EXCEPTION 'the tables are not at the newest migration: migrate first';
    END IF;
    IF wanted = (SELECT count(*) FROM pg_inherits WHERE inhparent = 'push_tokens'::regclass) THEN
        RAISE EXCEPTION 'push_tokens has % partitions already', wanted;
    END IF;
END $$;

-- What the new table takes over: its rights as statements, its storage parameters, its owner.
-- No temporary table or function: who owns the tables need not have the right to make one.
SELECT coalesce(array_agg(format('GRANT %s%s ON push_tokens TO %s', privilege_type, columns,
    CASE WHEN grantee = 0 THEN 'PUBLIC' ELSE grantee::regrole::text END)), '{}') AS grants
FROM (
    SELECT '' AS columns, acl.* FROM pg_class, aclexplode(relacl) acl
    WHERE oid = 'push_tokens'::regclass AND acl.grantee <> relowner
    UNION ALL
    SELECT format(' (%I)', attname), acl.* FROM pg_attribute, aclexplode(attacl) acl
    WHERE attrelid = 'push_tokens'::regclass AND NOT attisdropped
) rights \gset
SELECT relowner::regrole AS owner, obj_description(oid) AS comment,
    coalesce((
        SELECT 'WITH (' || array_to_string(reloptions, ', ') || ')' FROM pg_class leaf
        WHERE reloptions IS NOT NULL AND (leaf.oid = root.oid OR leaf.oid IN (
            SELECT inhrelid FROM pg_inherits WHERE inhparent = root.oid
        ))
        LIMIT 1
    ), '') AS storage
FROM pg_class root WHERE oid = 'push_tokens'::regclass \gset
SELECT :partitions > 0 AS is_partitioned \gset

\if :is_partitioned
    CREATE TABLE push_tokens_new (LIKE push_tokens INCLUDING ALL EXCLUDING INDEXES)
        PARTITION BY HASH (token);
    SELECT format('CREATE TABLE push_tokens_p%s_%s PARTITION OF push_tokens_new'
        ' FOR VALUES WITH (MODULUS %1$s, REMAINDER %2$s) %s', :'partitions', number, :'storage')
    FROM generate_series(0, :partitions - 1) AS number
    \gexec
\else
    CREATE TABLE push_tokens_new (LIKE push_tokens INCLUDING ALL EXCLUDING INDEXES) :storage;
\endif
SELECT format('COMMENT ON TABLE push_tokens_new IS %L', :'comment') \gexec

-- In the order of the table, each row goes to its partition.
INSERT INTO push_tokens_new SELECT * FROM push_tokens;

-- A key of a partitioned table holds the column that it is partitioned by.
\if :is_partitioned
    ALTER TABLE push_tokens_new ADD CONSTRAINT pk_push_tokens_new PRIMARY KEY (id, token);
    CREATE INDEX uq_push_tokens_device_new
        ON push_tokens_new (user_id, app_name, device_id, (type = 'voip'));
\else
    ALTER TABLE push_tokens_new ADD CONSTRAINT pk_push_tokens_new PRIMARY KEY (id);
    CREATE UNIQUE INDEX uq_push_tokens_device_new
        ON push_tokens_new (user_id, app_name, device_id, (type = 'voip'));
\endif
ALTER TABLE push_tokens_new
    ADD CONSTRAINT uq_push_tokens_app_name_token_new UNIQUE (app_name, token);
CREATE INDEX ix_push_tokens_session_hash_new ON push_tokens_new (session_hash);
ALTER TABLE push_tokens_new ADD CONSTRAINT fk_push_tokens_session_hash_user_sessions
    FOREIGN KEY (session_hash) REFERENCES user_sessions (token_hash) ON DELETE CASCADE;
ANALYZE push_tokens_new;

-- From here on lookups wait, too.
DROP TABLE push_tokens;
DROP FUNCTION IF EXISTS push_tokens_one_of_device();
ALTER TABLE push_tokens_new RENAME TO push_tokens;
ALTER TABLE push_tokens RENAME CONSTRAINT pk_push_tokens_new TO pk_push_tokens;
ALTER TABLE push_tokens
    RENAME CONSTRAINT uq_push_tokens_app_name_token_new TO uq_push_tokens_app_name_token;
ALTER INDEX uq_push_tokens_device_new RENAME TO uq_push_tokens_device;
ALTER INDEX ix_push_tokens_session_hash_new RENAME TO ix_push_tokens_session_hash;

\if :is_partitioned
    -- No index is unique over all partitions without the push token. So this is what holds a
    -- device to one registration: who adds one claims the device until the commit, as registering
    -- does (app/registry/one_node/registration_sql.py), and then looks again. Where another one
    -- has claimed it or it is there, nothing is added, as by ON CONFLICT DO NOTHING.
    CREATE FUNCTION push_tokens_one_of_device() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF pg_try_advisory_xact_lock(hashtextextended(
            concat_ws(E'\n', NEW.user_id, NEW.app_name, NEW.device_id), 0
        )) THEN
            -- By an order that only the index of devices has: or partitions that were empty when
            -- this was planned may be read whole.
            PERFORM 1 FROM push_tokens p
            WHERE p.user_id = NEW.user_id AND p.app_name = NEW.app_name
                AND p.device_id BETWEEN NEW.device_id AND NEW.device_id
                AND (p.type = 'voip') = (NEW.type = 'voip') AND p.token <> NEW.token
            ORDER BY p.device_id
            LIMIT 1;
            IF NOT FOUND THEN
                RETURN NEW;
            END IF;
        END IF;
        IF TG_OP = 'INSERT' THEN
            RETURN NULL;
        END IF;
        RAISE unique_violation
            USING MESSAGE = 'a device has one registration', CONSTRAINT = 'uq_push_tokens_device';
    END $$;
    CREATE TRIGGER one_of_device_added BEFORE INSERT ON push_tokens
        FOR EACH ROW EXECUTE FUNCTION push_tokens_one_of_device();
    CREATE TRIGGER one_of_device_changed BEFORE UPDATE ON push_tokens FOR EACH ROW
        WHEN (NEW.device_id <> OLD.device_id OR NEW.user_id <> OLD.user_id
            OR (NEW.type = 'voip') <> (OLD.type = 'voip'))
        EXECUTE FUNCTION push_tokens_one_of_device();
    SELECT format('ALTER FUNCTION push_tokens_one_of_device() OWNER TO %s', :'owner') \gexec
\endif

SELECT format('ALTER TABLE %s OWNER TO %s', oid::regclass, :'owner')
FROM pg_class
WHERE oid = 'push_tokens'::regclass
    OR oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'push_tokens'::regclass)
\gexec
SELECT unnest(:'grants'::text[]) \gexec
COMMIT;
