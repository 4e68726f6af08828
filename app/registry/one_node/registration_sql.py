"""The statements that register push tokens, a lone one or a hundred (see ../registration.py).

Each takes one parameter, the registrations as JSON: reading it costs PostgreSQL less than arrays.
`fresh_id` is the id of a row that is new, its end the name of a device that is, and by it a member
is known in what comes back: (fresh_id, outcome, device_id, enabled, created_at, updated_at), the
last four null for who is signed in; the rows of what was written come before these.

All writers lock in one order: sessions by token_hash, then registrations by (app_name, token); who
inserts a row holds all other locks by then, and inserts in that order. But devices have another
order, and a row that one deletes another one inserts: so no one waits to insert. A statement that
adds or removes a row first claims its value and its device by advisory locks, without waiting, and
leaves alone what another one has claimed.

A registration with a VoIP push token comes as two members: that of the app, with `has_voip`, and
one of type voip for the same device. Any other one that names its device ends the device's VoIP
registration, and whatever takes an APNs registration from a device takes its VoIP one along.
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

# The rows whose user and device stay are renewed. A row that is changed meanwhile is not where it
# was; it is left to replacing_sql.py, like all others that are neither renewed nor added.
RENEW = f"""
refreshed AS (
    UPDATE push_tokens p
    SET type = f.type, environment = f.environment, session_hash = f.session_hash,
        updated_at = now()
    FROM (SELECT * FROM found ORDER BY app_name, token) f
    WHERE p.ctid = f.stored AND p.app_name = f.app_name AND p.token = f.token
        AND p.user_id = f.user_id AND (f.device_id IS NULL OR p.device_id = f.device_id)
        AND {is_of_kind("f")}
    RETURNING f.fresh_id, p.device_id, p.enabled, p.created_at, p.updated_at
),"""  # noqa: S608

ADD = """INSERT INTO push_tokens (
        id, app_name, token, type, user_id, session_hash, updated_at, created_at, environment,
        device_id
    )"""

RENEWED = "SELECT fresh_id, 'refreshed', device_id, enabled, created_at, updated_at FROM refreshed"

# For members of whom none names a device: renews, and adds the rows of new values.
REGISTER_UNNAMED = f"""{SIGNED_IN}
found AS MATERIALIZED (
    SELECT s.*, {of_value("ctid", "s")} AS stored
    FROM signed_in s
    ORDER BY app_name, token
),{RENEW}
added AS (
    {ADD}
    SELECT fresh_id, app_name, token, type, user_id, session_hash, now(), now(), environment,
        {FRESH_NAME}
    FROM found f
    WHERE stored IS NULL AND {claim("app_name", "token")}
    ORDER BY app_name, token
    ON CONFLICT DO NOTHING
    RETURNING id, device_id, enabled, created_at, updated_at
)
{RENEWED}
UNION ALL
SELECT id, 'created', device_id, enabled, created_at, updated_at FROM added
UNION ALL
{ASKED}
"""  # noqa: S608

# A second row of a device, as two releases may leave it until revision 0011: REPLACE takes both.
OTHER_FORMER = f"""(
    SELECT p.id
    FROM push_tokens p
    WHERE {is_of_device("f")} AND {is_of_kind("f")} AND p.ctid <> f.former
    ORDER BY p.device_id
    LIMIT 1
)"""  # noqa: S608

# The same for any members, and it rotates: a new value takes the place of the one row of its
# device. That row is locked out of the order, so only if it is free, and after all locks that
# are waited for: the count of `refreshed` has the UPDATE run first, and to sort what is added the
# DELETE was read to its end. What the UPDATE has just renewed, for a member that names no device,
# counts as locked.
# Who names a device is looked up by it, and by the value only where that is not the device's
# already. Of a device's two rows the VoIP one comes first: where it has to go, it is in the way.
REGISTER = f"""{SIGNED_IN}
found AS MATERIALIZED (
    SELECT s.*, CASE WHEN d.is_same THEN NULL WHEN d.is_of_kind THEN d.stored
            WHEN NOT d.is_of_kind THEN '(0,0)' END AS former,
        CASE WHEN s.device_id IS NULL THEN {of_value("ctid", "s")}
            WHEN d.is_same THEN d.stored END AS stored
    FROM signed_in s
    LEFT JOIN LATERAL (
        SELECT p.ctid AS stored, {is_of_kind("s")} AS is_of_kind,
            {is_of_kind("s")} AND p.token = s.token AS is_same
        FROM push_tokens p
        WHERE s.device_id IS NOT NULL AND {is_of_device("s")} AND {is_ended("s")}
        ORDER BY p.device_id DESC, (p.type = 'voip') DESC
        LIMIT 1
    ) d ON true
    ORDER BY app_name, token
),{RENEW}
claimed AS MATERIALIZED (
    SELECT *
    FROM found f
    WHERE (SELECT count(*) FROM refreshed) >= 0
        AND stored IS NULL AND {claim("app_name", "token")} AND (device_id IS NULL OR (
            {claim("user_id", "app_name", "device_id")} AND {of_value("id", "f")} IS NULL
            AND (former IS NULL OR {OTHER_FORMER} IS NULL)
        ))
),
gone AS (
    DELETE FROM push_tokens p
    USING (
        SELECT c.fresh_id, h.*
        FROM claimed c
        CROSS JOIN LATERAL (
            SELECT p.ctid AS stored, p.app_name, p.token
            FROM push_tokens p
            WHERE p.ctid = c.former AND {is_of_device("c")} AND {is_of_kind("c")}
                AND {claim("p.app_name", "p.token")}
            FOR UPDATE SKIP LOCKED
        ) h
    ) h
    WHERE p.ctid = h.stored AND p.app_name = h.app_name AND p.token = h.token
    RETURNING h.fresh_id, p.id, p.created_at
),
added AS (
    {ADD}
    SELECT coalesce(g.id, fresh_id), app_name, token, type, user_id, session_hash, now(),
        coalesce(g.created_at, now()), environment, coalesce(device_id, {FRESH_NAME})
    FROM claimed c
    LEFT JOIN gone g USING (fresh_id)
    WHERE c.former IS NULL OR g.id IS NOT NULL
    ORDER BY app_name, token
    ON CONFLICT DO NOTHING
    RETURNING id, device_id, enabled, created_at, updated_at
)
{RENEWED}
UNION ALL
SELECT coalesce(g.fresh_id, a.id), CASE WHEN g.id IS NULL THEN 'created' ELSE 'rotated' END,
    a.device_id, a.enabled, a.created_at, a.updated_at
FROM added a
LEFT JOIN gone g USING (id)
UNION ALL
{ASKED}
"""  # noqa: S608
