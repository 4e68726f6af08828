-- Takes spread.sql back: all rows on the coordinator again, with every key. Run it there, as the
-- role that owns the tables, with the service stopped and after `push-tokens sweep`:
--
--     psql -X -v ON_ERROR_STOP=1 "$OWNER_URL" -f deploy/citus/gather.sql
--
--     WHERE A DEVICE IS STILL HELD TWICE, OR A REGISTRATION HAS NO SESSION, IT STOPS BEFORE THE
--     KEYS. -v remove=yes DELETES SUCH REGISTRATIONS INSTEAD: keys-back.sql SAYS WHICH.
--
-- Each table comes back in a transaction of its own. Stopped at any point it is run again and does
-- what is left; until it is through, serve with DATABASE_DISTRIBUTED=citus or not at all.

\set ON_ERROR_STOP on
SET client_min_messages = warning;

SELECT to_regclass('pg_dist_partition') IS NOT NULL AS has_citus \gset
\if :has_citus
    SELECT 'user_sessions'::regclass IN (SELECT logicalrelid FROM pg_dist_partition)
            AS sessions_are_spread,
        'push_tokens'::regclass IN (SELECT logicalrelid FROM pg_dist_partition)
            AS tokens_are_spread \gset
\else
    \set sessions_are_spread no
    \set tokens_are_spread no
\endif

-- Citus makes each table anew, without its comments: they are kept as statements meanwhile.
\if :tokens_are_spread
    \set table push_tokens
    BEGIN;
    \ir comments.sql
    SELECT undistribute_table('push_tokens');
    :comments
    COMMIT;
\endif
\if :sessions_are_spread
    \set table user_sessions
    BEGIN;
    \ir comments.sql
    SELECT undistribute_table('user_sessions');
    :comments
    COMMIT;
\endif

\ir keys-back.sql
ANALYZE user_sessions;
ANALYZE push_tokens;
