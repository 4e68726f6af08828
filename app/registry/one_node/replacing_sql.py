"""The statement that registers whom REGISTER leaves: a value moves, or two rows become one.

Its members are signed in, and nobody else writes their values, their devices, or what these had.
It takes and gives what the statements of registration_sql.py do.
"""

from app.registry.one_node.fragments import (
    ASKED,
    FRESH_NAME,
    SIGNED_IN,
    claim,
    is_ended,
    is_of_device,
    is_of_kind,
    of_value,
)

# Which device a row will be of: the one that the app names, or that the row is of now.
NAME = f"coalesce(a.device_id, {of_value('device_id', 'a')}, {FRESH_NAME})"

# What the device that is named has, as far as it ends.
OF_DEVICE = f"""
    SELECT p.app_name, p.token, p.id
    FROM push_tokens p
    WHERE {is_of_device("a")} AND {is_ended("a")}
    ORDER BY p.device_id
"""  # noqa: S608

# The VoIP row of the device that has the value now, and may lose it.
OF_FORMER_DEVICE = f"""
    SELECT p.app_name, p.token, p.id, p.user_id, p.device_id
    FROM (
        SELECT {of_value("user_id", "a")} AS user_id, a.app_name,
            {of_value("device_id", "a")} AS device_id, 'voip' AS type
        OFFSET 0
    ) o
    CROSS JOIN LATERAL (
        SELECT * FROM push_tokens p WHERE {is_of_device("o")} AND p.type = 'voip'
        ORDER BY p.device_id
    ) p
"""  # noqa: S608

# `former` is what a member's device had, `valued` the row of its value. A row that is one
# member's former and another's value's belongs to the former's device, so that two devices may
# swap their values. `silenced` are VoIP rows that go with those. The count of `gone` is what makes
# the deletes run before the first insert: a data-modifying CTE runs only as far as it is read.
REPLACE = f"""{SIGNED_IN}
members AS MATERIALIZED (
    SELECT *
    FROM signed_in a
    WHERE {claim("app_name", "token")} AND {claim("user_id", "app_name", NAME)} AND (
        SELECT bool_and({claim("d.app_name", "d.token")}) FROM ({OF_DEVICE}) d
    ) IS NOT FALSE AND (
        SELECT bool_and({claim("f.app_name", "f.token")}
            AND {claim("f.user_id", "f.app_name", "f.device_id")})
        FROM ({OF_FORMER_DEVICE}) f
    ) IS NOT FALSE
),
at_stake AS (
    SELECT app_name, token, {of_value("id", "a")} AS id FROM members a
    UNION
    SELECT d.app_name, d.token, d.id FROM members a CROSS JOIN LATERAL ({OF_DEVICE}) d
    UNION
    SELECT f.app_name, f.token, f.id FROM members a CROSS JOIN LATERAL ({OF_FORMER_DEVICE}) f
),
held AS MATERIALIZED (
    SELECT p.*
    FROM (SELECT * FROM at_stake ORDER BY app_name, token) k
    CROSS JOIN LATERAL (
        SELECT id, app_name, token, user_id, coalesce(device_id, id) AS device_id,
            type = 'voip' AS is_voip, enabled, created_at, updated_at
        FROM push_tokens
        WHERE id = k.id
        FOR UPDATE
    ) p
),
formers AS MATERIALIZED (
    SELECT a.fresh_id, h.*
    FROM members a
    JOIN held h ON h.user_id = a.user_id AND h.app_name = a.app_name
        AND h.device_id = a.device_id AND h.is_voip = (a.type = 'voip')
),
former AS (SELECT DISTINCT ON (fresh_id) * FROM formers ORDER BY fresh_id, updated_at DESC),
valued AS MATERIALIZED (
    SELECT a.fresh_id, h.*
    FROM members a
    JOIN held h ON h.app_name = a.app_name AND h.token = a.token
    LEFT JOIN formers f ON f.id = h.id
    WHERE f.fresh_id IS NULL OR f.fresh_id = a.fresh_id
),
silenced AS (
    SELECT h.id
    FROM members a
    JOIN held h ON h.user_id = a.user_id AND h.app_name = a.app_name
        AND h.device_id = a.device_id
    WHERE h.is_voip AND a.type <> 'voip' AND a.has_voip IS NULL
    UNION
    SELECT h.id
    FROM members a
    JOIN valued v USING (fresh_id)
    JOIN held h ON h.user_id = v.user_id AND h.app_name = v.app_name
        AND h.device_id = v.device_id
    WHERE h.is_voip AND NOT v.is_voip
        AND (v.user_id <> a.user_id OR v.device_id <> a.device_id)
),
gone AS (
    DELETE FROM push_tokens
    WHERE id = ANY (ARRAY(
        SELECT id FROM formers UNION SELECT id FROM valued UNION SELECT id FROM silenced
    ))
    RETURNING id
),
replacing AS MATERIALIZED (
    SELECT a.*, coalesce(f.id, v.id, a.fresh_id) AS id, coalesce(v.enabled, true) AS enabled,
        coalesce(f.created_at, v.created_at, now()) AS created_at,
        CASE
            WHEN v.id IS NULL THEN {FRESH_NAME}
            WHEN v.user_id = a.user_id AND v.is_voip = (a.type = 'voip') THEN v.device_id
            WHEN (
                SELECT true
                FROM push_tokens p
                WHERE {is_of_device("a", "v.device_id")} AND {is_of_kind("a")}
                ORDER BY p.device_id
                LIMIT 1
            ) THEN {FRESH_NAME}
            ELSE v.device_id
        END AS kept_id,
        CASE
            WHEN v.user_id <> a.user_id THEN 'moved'
            WHEN f.token <> a.token THEN 'rotated'
            WHEN v.id IS NULL THEN 'created'
            ELSE 'refreshed'
        END AS outcome
    FROM members a
    LEFT JOIN former f USING (fresh_id)
    LEFT JOIN valued v USING (fresh_id)
),
written AS (
    INSERT INTO push_tokens (
        id, app_name, token, type, user_id, session_hash, enabled, created_at, updated_at,
        environment, device_id
    )
    SELECT id, app_name, token, type, user_id, session_hash, enabled, created_at, now(),
        environment, coalesce(device_id, kept_id)
    FROM replacing CROSS JOIN (SELECT count(*) FROM gone) deleted
    ORDER BY app_name, token
    ON CONFLICT DO NOTHING
    RETURNING app_name, token, device_id, enabled, created_at, updated_at
)
SELECT r.fresh_id, r.outcome, w.device_id, w.enabled, w.created_at, w.updated_at
FROM written w JOIN replacing r ON r.app_name = w.app_name AND r.token = w.token
UNION ALL
{ASKED}
"""  # noqa: S608
