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

Each row is looked up by an index of its own accord, by a subquery that PostgreSQL cannot turn
into a join (scalar, FOR UPDATE, in an order, or OFFSET 0), or by where it is stored. And it has
hardly a choice of indexes, though app_name is in two: the range of a value, or of a device, has
an order that only one has. So the plan is the same for a new table and for a full one. For ranges
of whole rows there is only one, too, but up to PostgreSQL 17 a look-up that finds nothing would
read on to the end of the app or the user.

A registration with a VoIP push token comes as two members: that of the app, with `has_voip`, and
one of type voip for the same device. Any other one that names its device ends the device's VoIP
registration, and whatever takes an APNs registration from a device takes its VoIP one along.
"""

from sqlalchemy.dialects.postgresql.psycopg import dialect

from app.identifiers import NAME_LENGTH
from app.models import is_live
from app.registry.one_node import ONE_NODE

FRESH_NAME = f"right(fresh_id, {NAME_LENGTH})"


def _claim(*names: str) -> str:
    """Ask, in SQL, to be the only one who writes a row of this name until the commit."""
    return f"pg_try_advisory_xact_lock(hashtextextended(concat_ws(E'\\n', {', '.join(names)}), 0))"


def _of_value(column: str, asked: str) -> str:
    """Look up, in SQL, a column of the row of a value; null where there is none.

    In an array the push token has partitions other than its own left out, where there are any.
    """
    token = f"{asked}.token"
    return f"""(
        SELECT p.{column}
        FROM push_tokens p
        WHERE p.app_name = {asked}.app_name AND p.token BETWEEN {token} AND {token}
            AND p.token = ANY (ARRAY[{token}])
        ORDER BY p.token
        LIMIT 1
    )"""  # noqa: S608


def is_of_device(asked: str, name: str = "") -> str:
    """Compare, in SQL, push_tokens p with the device of what is asked, or of another name.

    For a subquery in the order of p.device_id.
    """
    name = name or f"{asked}.device_id"
    same = f"p.user_id = {asked}.user_id AND p.app_name = {asked}.app_name"
    return f"{same} AND p.device_id BETWEEN {name} AND {name}"


def is_of_kind(asked: str) -> str:
    """Compare, in SQL, whether push_tokens p is for calls with whether what is asked is."""
    return f"(p.type = 'voip') = ({asked}.type = 'voip')"


def _is_ended(asked: str) -> str:
    """Compare, in SQL, push_tokens p, of the device, with what a registration takes the place of.

    That is the row of its kind; and the VoIP one, if it brings none.
    """
    return f"({is_of_kind(asked)} OR ({asked}.type <> 'voip' AND {asked}.has_voip IS NULL))"


IS_LIVE = str(is_live().compile(dialect=dialect()))  # type: ignore[no-untyped-call]

# What was asked, as far as there is a session for it. A logout waits for us, or we find its
# session gone: never an orphan, never an error. Sessions are looked up by the hash alone, so
# that there is only one index for it; whose a session is, is compared afterwards.
SIGNED_IN = f"""{ONE_NODE}
WITH signed_in AS MATERIALIZED (
    SELECT a.*
    FROM (
        SELECT decode(hash, 'hex') AS session_hash, j.*
        FROM json_to_recordset(%(asked)s::json) AS j (
            hash text, user_id text COLLATE "C", app_name text COLLATE "C", token text COLLATE "C",
            type text COLLATE "C", environment text COLLATE "C", device_id text COLLATE "C",
            max_age integer, fresh_id text COLLATE "C", has_voip boolean
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

# The rows whose user and device stay are renewed. A row that is changed meanwhile is not where it
# was; it is left to REPLACE, like all others that are neither renewed nor added.
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
ASKED = "SELECT fresh_id, '', NULL, NULL, NULL, NULL FROM signed_in"

# For members of whom none names a device: renews, and adds the rows of new values.
REGISTER_UNNAMED = f"""{SIGNED_IN}
found AS MATERIALIZED (
    SELECT s.*, {_of_value("ctid", "s")} AS stored
    FROM signed_in s
    ORDER BY app_name, token
),{RENEW}
added AS (
    {ADD}
    SELECT fresh_id, app_name, token, type, user_id, session_hash, now(), now(), environment,
        {FRESH_NAME}
    FROM found f
    WHERE stored IS NULL AND {_claim("app_name", "token")}
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
        CASE WHEN s.device_id IS NULL THEN {_of_value("ctid", "s")}
            WHEN d.is_same THEN d.stored END AS stored
    FROM signed_in s
    LEFT JOIN LATERAL (
        SELECT p.ctid AS stored, {is_of_kind("s")} AS is_of_kind,
            {is_of_kind("s")} AND p.token = s.token AS is_same
        FROM push_tokens p
        WHERE s.device_id IS NOT NULL AND {is_of_device("s")} AND {_is_ended("s")}
        ORDER BY p.device_id DESC, (p.type = 'voip') DESC
        LIMIT 1
    ) d ON true
    ORDER BY app_name, token
),{RENEW}
claimed AS MATERIALIZED (
    SELECT *
    FROM found f
    WHERE (SELECT count(*) FROM refreshed) >= 0
        AND stored IS NULL AND {_claim("app_name", "token")} AND (device_id IS NULL OR (
            {_claim("user_id", "app_name", "device_id")} AND {_of_value("id", "f")} IS NULL
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
                AND {_claim("p.app_name", "p.token")}
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

# Which device a row will be of: the one that the app names, or that the row is of now.
NAME = f"coalesce(a.device_id, {_of_value('device_id', 'a')}, {FRESH_NAME})"

# What the device that is named has, as far as it ends.
OF_DEVICE = f"""
    SELECT p.app_name, p.token, p.id
    FROM push_tokens p
    WHERE {is_of_device("a")} AND {_is_ended("a")}
    ORDER BY p.device_id
"""  # noqa: S608

# The VoIP row of the device that has the value now, and may lose it.
OF_FORMER_DEVICE = f"""
    SELECT p.app_name, p.token, p.id, p.user_id, p.device_id
    FROM (
        SELECT {_of_value("user_id", "a")} AS user_id, a.app_name,
            {_of_value("device_id", "a")} AS device_id, 'voip' AS type
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
    WHERE {_claim("app_name", "token")} AND {_claim("user_id", "app_name", NAME)} AND (
        SELECT bool_and({_claim("d.app_name", "d.token")}) FROM ({OF_DEVICE}) d
    ) IS NOT FALSE AND (
        SELECT bool_and({_claim("f.app_name", "f.token")}
            AND {_claim("f.user_id", "f.app_name", "f.device_id")})
        FROM ({OF_FORMER_DEVICE}) f
    ) IS NOT FALSE
),
at_stake AS (
    SELECT app_name, token, {_of_value("id", "a")} AS id FROM members a
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
