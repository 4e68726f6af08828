"""The two statements that register push tokens, a lone one or a hundred (see registration.py).

Each takes one parameter, the registrations as JSON: reading it costs PostgreSQL less than arrays.

All writers lock in one order: sessions by token_hash, then registrations by (app_name, token).
Each row is looked up by an index of its own accord, in a LATERAL subquery that PostgreSQL cannot
turn into a join (FOR UPDATE, or OFFSET 0): so the plan is the same for empty and for full tables.
"""

from sqlalchemy.dialects.postgresql.psycopg import dialect

from app.models import is_live

IS_LIVE = str(is_live().compile(dialect=dialect()))  # type: ignore[no-untyped-call]

# What was asked, as far as there is a session for it. A logout waits for us, or we find its
# session gone: never an orphan, never an error. Sessions are looked up by the hash alone, so
# that there is only one index for it; whose a session is, is compared afterwards.
SIGNED_IN = f"""
WITH signed_in AS MATERIALIZED (
    SELECT a.*
    FROM (
        SELECT decode(hash, 'hex') AS session_hash, j.*
        FROM json_to_recordset(%(asked)s::json) AS j (
            place integer, hash text, user_id text COLLATE "C", app_name text COLLATE "C",
            token text COLLATE "C", type text COLLATE "C", environment text COLLATE "C",
            device_id text COLLATE "C", max_age integer, fresh_id text COLLATE "C"
        )
        ORDER BY 1
    ) a
    CROSS JOIN LATERAL (
        SELECT user_id, verified_at
        FROM user_sessions
        WHERE token_hash = a.session_hash AND {IS_LIVE}
        FOR KEY SHARE
    ) s
    WHERE s.user_id = a.user_id AND (
        a.max_age IS NULL OR s.verified_at IS NULL
        OR s.verified_at > now() - make_interval(secs => a.max_age)
    )
),"""  # noqa: S608 (no value of a caller)

# Rows whose user and device stay. `= ANY` keeps PostgreSQL from reading the table for the join.
REFRESH = f"""{SIGNED_IN}
held AS MATERIALIZED (
    SELECT a.*, p.id
    FROM (SELECT * FROM signed_in ORDER BY app_name, token) a
    CROSS JOIN LATERAL (
        SELECT id, user_id, device_id, type
        FROM push_tokens
        WHERE app_name = a.app_name AND token = a.token
        FOR NO KEY UPDATE
    ) p
    WHERE p.user_id = a.user_id AND (a.device_id IS NULL OR p.device_id = a.device_id)
        AND (p.type = 'voip') = (a.type = 'voip')
),
refreshed AS (
    UPDATE push_tokens p
    SET type = h.type, environment = h.environment, session_hash = h.session_hash,
        updated_at = now()
    FROM held h
    WHERE p.id = h.id AND p.id = ANY (ARRAY(SELECT id FROM held))
    RETURNING h.place, p.device_id, p.enabled, p.created_at, p.updated_at
)
SELECT place, 'refreshed', r.device_id, r.enabled, r.created_at, r.updated_at
FROM signed_in LEFT JOIN refreshed r USING (place)
"""  # noqa: S608

# `former` is what a member's device had, `valued` the row of its value. A row that is one
# member's former and another's value's belongs to the former's device, so that two devices may
# swap their values. The count of `gone` is what makes the deletes run before the first insert:
# a data-modifying CTE runs only as far as it is read.
REPLACE = f"""{SIGNED_IN}
at_stake AS (
    SELECT app_name, token FROM signed_in
    UNION
    SELECT a.app_name, d.token
    FROM signed_in a
    CROSS JOIN LATERAL (
        SELECT token
        FROM push_tokens p
        WHERE p.user_id = a.user_id AND p.app_name = a.app_name AND p.device_id = a.device_id
            AND (p.type = 'voip') = (a.type = 'voip')
        OFFSET 0
    ) d
),
held AS MATERIALIZED (
    SELECT p.*
    FROM (SELECT * FROM at_stake ORDER BY app_name, token) k
    CROSS JOIN LATERAL (
        SELECT id, app_name, token, user_id, coalesce(device_id, id) AS device_id,
            type = 'voip' AS is_voip, enabled, created_at, updated_at
        FROM push_tokens
        WHERE app_name = k.app_name AND token = k.token
        FOR UPDATE
    ) p
),
formers AS MATERIALIZED (
    SELECT a.place, h.*
    FROM signed_in a
    JOIN held h ON h.user_id = a.user_id AND h.app_name = a.app_name
        AND h.device_id = a.device_id AND h.is_voip = (a.type = 'voip')
),
former AS (SELECT DISTINCT ON (place) * FROM formers ORDER BY place, updated_at DESC),
valued AS MATERIALIZED (
    SELECT a.place, h.*
    FROM signed_in a
    JOIN held h ON h.app_name = a.app_name AND h.token = a.token
    LEFT JOIN formers f ON f.id = h.id
    WHERE f.place IS NULL OR f.place = a.place
),
gone AS (
    DELETE FROM push_tokens
    WHERE id = ANY (ARRAY(SELECT id FROM formers UNION SELECT id FROM valued))
    RETURNING id
),
members AS MATERIALIZED (
    SELECT a.*, coalesce(f.id, v.id, a.fresh_id) AS id, coalesce(v.enabled, true) AS enabled,
        coalesce(f.created_at, v.created_at, now()) AS created_at,
        CASE
            WHEN v.id IS NULL THEN a.fresh_id
            WHEN v.user_id = a.user_id AND v.is_voip = (a.type = 'voip') THEN v.device_id
            WHEN (
                SELECT true
                FROM push_tokens p
                WHERE p.user_id = a.user_id AND p.app_name = a.app_name
                    AND p.device_id = v.device_id AND (p.type = 'voip') = (a.type = 'voip')
                LIMIT 1
            ) THEN a.fresh_id
            ELSE v.device_id
        END AS kept_id,
        CASE
            WHEN v.user_id <> a.user_id THEN 'moved'
            WHEN f.token <> a.token THEN 'rotated'
            WHEN v.id IS NULL THEN 'created'
            ELSE 'refreshed'
        END AS outcome
    FROM signed_in a
    LEFT JOIN former f USING (place)
    LEFT JOIN valued v USING (place)
),
written AS (
    INSERT INTO push_tokens (
        id, app_name, token, type, user_id, session_hash, enabled, created_at, updated_at,
        environment, device_id
    )
    SELECT id, app_name, token, type, user_id, session_hash, enabled, created_at, now(),
        environment, coalesce(device_id, kept_id)
    FROM members CROSS JOIN (SELECT count(*) FROM gone) deleted
    ORDER BY app_name, token
    ON CONFLICT DO NOTHING
    RETURNING app_name, token, device_id, enabled, created_at, updated_at
)
SELECT m.place, m.outcome, w.device_id, w.enabled, w.created_at, w.updated_at
FROM members m LEFT JOIN written w ON w.app_name = m.app_name AND w.token = m.token
"""  # noqa: S608

# The statements have one good plan, through the indexes, for one row and for a hundred. Left to
# itself PostgreSQL plans again for each lone registration, and a plan made while the tables were
# empty would read them whole, or compare every row with every other.
# Up to PostgreSQL 17 switched off means dear, and what is dear is compiled (JIT) each time.
SESSION_SETTINGS = (
    "SET jit = off",
    "SET plan_cache_mode = force_generic_plan",
    "SET enable_seqscan = off",
    "SET enable_nestloop = off",
)
