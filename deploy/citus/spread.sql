-- Spreads push_tokens and user_sessions over the nodes of a Citus cluster. Run it on the
-- coordinator, as the role that owns the tables, with the service stopped:
--
--     psql -X -v ON_ERROR_STOP=1 "$OWNER_URL" -f deploy/citus/spread.sql
--
-- -v shards=N: into how many parts each table is cut (12). A part is on one node, so no more nodes
-- than that ever share the work; and every lookup asks all of them, so do not take many more.
--
--     SERVE WITH DATABASE_DISTRIBUTED=citus FROM THEN ON. keys.sql SAYS WHICH KEYS ARE LOST.
--
-- Keys and tables change in one transaction: what fails leaves everything as it was. Run again it
-- does what is not done yet. gather.sql is the way back.

\set ON_ERROR_STOP on
SET client_min_messages = warning;
\if :{?shards}
\else
    \set shards 12
\endif

SELECT to_regclass('pg_dist_partition') IS NOT NULL AS has_citus \gset
\if :has_citus
\else
    DO $$ BEGIN
        RAISE EXCEPTION 'this database has no Citus'
            USING HINT = 'CREATE EXTENSION citus, on every node.';
    END $$;
\endif

SELECT 'user_sessions'::regclass NOT IN (SELECT logicalrelid FROM pg_dist_partition)
        AS sessions_are_here,
    'push_tokens'::regclass NOT IN (SELECT logicalrelid FROM pg_dist_partition)
        AS tokens_are_here \gset

BEGIN;
SET LOCAL lock_timeout = '5s';
\if :tokens_are_here
    LOCK TABLE user_sessions, push_tokens IN ACCESS EXCLUSIVE MODE;
    \ir keys.sql
\endif
\if :sessions_are_here
    SELECT create_distributed_table('user_sessions', 'token_hash', shard_count => :shards);
\endif
-- Not beside the sessions: a registration lies where its push token says, not its session.
\if :tokens_are_here
    SELECT create_distributed_table(
        'push_tokens', 'token', colocate_with => 'none', shard_count => :shards
    );
\endif
COMMIT;

-- The rows were copied to the nodes, and what they were copied from still fills the disk here. In
-- transactions of their own, and only where there is something: the lock stops the service.
SET lock_timeout = '5s';
SELECT pg_relation_size('user_sessions') > 0 AS sessions_left,
    pg_relation_size('push_tokens') > 0 AS tokens_left \gset
\if :sessions_left
    SELECT truncate_local_data_after_distributing_table('user_sessions');
\endif
\if :tokens_left
    SELECT truncate_local_data_after_distributing_table('push_tokens');
\endif
ANALYZE user_sessions;
ANALYZE push_tokens;
