"""The statements that merge a batch of imported rows, in the order in which they run.

A batch is one transaction. It locks sessions first, in token_hash order, then registrations in
(app_name, token) order, like every other writer; the statements before these only read.

They join the batch with the tables, which a distributed PostgreSQL does not plan where these are
spread. One spelling for both was tried: what a batch concerns is copied beside it first, and is
joined there. It costs PostgreSQL 2 to 21 % more CPU for new rows, 15 % more for newer ones, and
twice as much where nothing changes. So these stay.
"""

from datetime import datetime

from app.registry.one_node import ONE_NODE
from app.registry.one_node.fragments import is_of_device, is_of_kind
from app.transfer.import_rows import ImportRow

COLUMNS = ImportRow.__annotations__.items()
TYPES = {str: 'text COLLATE "C"', bytes: "bytea", bool: "boolean", datetime: "timestamptz(3)"}
KEY = ("app_name", "token")  # what makes two rows the same registration

# A temporary table has no statistics, and the real tables grow while plans are made: only a nested
# loop with index look-ups is right at every size. Up to PostgreSQL 17 a disabled plan only gets a
# high cost, and that triggers JIT compilation of each statement: 50 ms instead of 1.
PREPARE = f"""
SET jit = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_seqscan = off;
CREATE TEMPORARY TABLE staged (
    line bigint, {", ".join(f"{name} {TYPES[kind]}" for name, kind in COLUMNS)}
) ON COMMIT DELETE ROWS;
CREATE TEMPORARY TABLE winners (
    LIKE staged, former text[] COLLATE "C", old text[] COLLATE "C", silences boolean
) ON COMMIT DELETE ROWS;
"""

STAGE = "COPY staged FROM STDIN"


# Nor may the index be chosen. Two have the app in front, or nearly; where the statistics are of a
# table with one row, to look up all of an app seems to cost what a value or a device does, and 500
# rows took 0.35 s among 10,000. So look-ups are as in registry/one_node/, and joins compare the
# app, or the user where the value is looked up, by no index.


def _is_of_app(one: str, other: str) -> str:
    """Compare, in SQL, the apps of two rows after something else has found the first one."""
    return f"{one}.app_name || '' = {other}.app_name"


# An unknown session belongs to the first row that names it.
MISFITS = f"""{ONE_NODE}
SELECT line, owner <> user_id AS is_foreign
FROM (
    SELECT s.line, s.user_id, coalesce(
        u.user_id, first_value(s.user_id) OVER (PARTITION BY s.session_hash ORDER BY s.line)
    ) AS owner, coalesce(
        u.can_sign_in AND (u.expires_at IS NULL OR u.expires_at > now()), false
    ) AS is_known
    FROM staged s LEFT JOIN user_sessions u ON u.token_hash = s.session_hash
) judged
WHERE owner <> user_id OR (%(known_only)s AND NOT is_known)
"""  # noqa: S608 (the names are ours)

DROP_MISFITS = "DELETE FROM staged WHERE line = ANY (%(lines)s)"

# A VoIP row whose device has another row of the same session is named like that one.
NAME_CALLS = f"""{ONE_NODE}
UPDATE staged s SET device_id = p.device_id
FROM push_tokens p
WHERE s.line = ANY (%(lines)s) AND p.session_hash = s.session_hash AND p.user_id = s.user_id
    AND {_is_of_app("p", "s")} AND p.type = 'apn'
"""  # noqa: S608 (the names are ours)

# The same where the VoIP row came first.
NAME_FORMER_CALLS = f"""{ONE_NODE}
UPDATE push_tokens v SET device_id = w.device_id
FROM winners w
WHERE w.type = 'apn' AND v.session_hash = w.session_hash AND v.user_id = w.user_id
    AND {_is_of_app("v", "w")} AND v.type = 'voip' AND NOT EXISTS (
        SELECT 1 FROM push_tokens p
        WHERE p.user_id = v.user_id AND {_is_of_app("p", "v")}
            AND (p.device_id = v.device_id AND p.type <> 'voip'
                OR p.device_id = w.device_id AND p.type = 'voip')
    )
"""  # noqa: S608 (the names are ours)

# Winners are the newest of their value and of their device, in the batch and in the table.
# `former` are the rows that its device has with another value, `old` those and its value's own.
# It `silences` where it takes its value from a device that may have a VoIP row.
PICK_WINNERS = f"""{ONE_NODE}
INSERT INTO winners
SELECT s.line, {", ".join(f"s.{name}" for name in ImportRow._fields)}, d.ids, d.ids || v.ids,
    v.silences
FROM (
    SELECT *,
        row_number() OVER (
            PARTITION BY app_name, token ORDER BY updated_at DESC, line
        ) AS place_of_value,
        row_number() OVER (
            PARTITION BY user_id, app_name, device_id, type = 'voip' ORDER BY updated_at DESC, line
        ) AS place_of_device
    FROM staged
) s
CROSS JOIN LATERAL (
    SELECT array_agg(p.id) AS ids, max(p.updated_at) AS latest, bool_or(
        p.type = 'apn' AND (p.user_id <> s.user_id OR p.device_id <> s.device_id)
    ) AS silences
    FROM (
        SELECT *
        FROM push_tokens
        WHERE app_name = s.app_name AND token BETWEEN s.token AND s.token
            AND token = ANY (ARRAY[s.token])
        ORDER BY token
        LIMIT 1
    ) p
) v
CROSS JOIN LATERAL (
    SELECT array_agg(p.id) FILTER (WHERE p.token <> s.token) AS ids,
        max(p.updated_at) AS latest
    FROM (
        SELECT *
        FROM push_tokens p
        WHERE {is_of_device("s")} AND {is_of_kind("s")}
        ORDER BY p.device_id
    ) p
) d
WHERE s.place_of_value = 1 AND s.place_of_device = 1
    AND (v.latest < s.updated_at) IS NOT FALSE AND (d.latest < s.updated_at) IS NOT FALSE
"""  # noqa: S608 (the names are ours)

# The update changes nothing, but locks existing sessions like new ones.
KEEP_SESSIONS = """
INSERT INTO user_sessions (token_hash, user_id, can_sign_in)
SELECT DISTINCT ON (session_hash) session_hash, user_id, false
FROM winners
ORDER BY session_hash, line
ON CONFLICT (token_hash) DO UPDATE SET can_sign_in = user_sessions.can_sign_in WHERE false
"""

# When rows that are to be reachable for a time end: one moment for the whole import.
ENDS_AT = "SELECT now() + make_interval(days => %(days)s)"

# Their sessions: of all rows, not of the winners only, because a second import may find rows where
# an earlier one hung them. An end is never brought forward.
KEEP_REACHABLE = """
INSERT INTO user_sessions (token_hash, user_id, can_sign_in, expires_at)
SELECT DISTINCT ON (session_hash) session_hash, user_id, false, %(ends_at)s::timestamptz
FROM staged
ORDER BY session_hash, line
ON CONFLICT (token_hash) DO UPDATE SET expires_at = excluded.expires_at
WHERE user_sessions.expires_at < excluded.expires_at
"""

FIND_HELD = f"""{ONE_NODE}
SELECT p.id, p.session_hash
FROM staged s JOIN push_tokens p
    ON p.app_name = s.app_name AND p.token = s.token AND p.user_id || '' = s.user_id
WHERE p.session_hash <> s.session_hash
"""  # noqa: S608 (the names are ours)

FIND_PLACEHOLDERS = """
SELECT token_hash FROM user_sessions WHERE token_hash = ANY (%(hashes)s) AND NOT can_sign_in
"""

MOVE_HELD = f"""{ONE_NODE}
UPDATE push_tokens p SET session_hash = s.session_hash
FROM staged s
WHERE p.id = ANY (%(held)s) AND p.session_hash = ANY (%(placeholders)s)
    AND {_is_of_app("p", "s")} AND p.token = s.token AND p.user_id = s.user_id
"""  # noqa: S608 (the names are ours)

# The sessions are looked up one by one, not joined: while PostgreSQL takes a growing table for
# small, a join may read all sessions, and the batch for each of them.
LOCK_SESSIONS = f"""{ONE_NODE}
SELECT token_hash
FROM user_sessions
WHERE can_sign_in AND token_hash = ANY (ARRAY(SELECT DISTINCT session_hash FROM winners))
ORDER BY token_hash
FOR KEY SHARE
"""  # noqa: S608 (the names are ours)

LOCK_OLD = f"""{ONE_NODE}
SELECT id
FROM push_tokens
WHERE id = ANY (ARRAY(SELECT unnest(old) FROM winners) || %(held)s::text[])
ORDER BY app_name, token
FOR UPDATE
"""  # noqa: S608 (the names are ours)

# Whether any winner has the one or the other; mostly none has.
WHAT_GOES = "SELECT bool_or(former IS NOT NULL), bool_or(silences) FROM winners"

# What a winner's device had. Whatever changed while we waited for its lock stays, and if that is
# in the way, the unique index of devices has the batch begin anew.
DELETE_FORMER = f"""{ONE_NODE}
DELETE FROM push_tokens p
USING (SELECT unnest(former) AS former_id, * FROM winners) w
WHERE p.id = w.former_id AND p.user_id = w.user_id AND {_is_of_app("p", "w")}
    AND p.device_id = w.device_id AND p.token <> w.token AND p.updated_at < w.updated_at
"""  # noqa: S608 (the names are ours)

# The VoIP rows of devices that lose their APNs registration to a winner.
SILENCE = f"""{ONE_NODE}
DELETE FROM push_tokens v
USING winners w, push_tokens p
WHERE w.silences
    AND p.id = ANY (w.old) AND {_is_of_app("p", "w")} AND p.token = w.token AND p.type = 'apn'
    AND (p.user_id <> w.user_id OR p.device_id <> w.device_id) AND p.updated_at < w.updated_at
    AND v.user_id = p.user_id AND {_is_of_app("v", "p")} AND v.device_id = p.device_id
    AND v.type = 'voip' AND v.updated_at < w.updated_at
"""  # noqa: S608 (the names are ours)

# The row's own id stays, as cursors of the list are made of it.
RENEWED = [name for name in ImportRow._fields if name not in ("id", *KEY)]
MERGE = f"""{ONE_NODE}
INSERT INTO push_tokens ({", ".join(ImportRow._fields)})
SELECT {", ".join(f"w.{name}" for name in ImportRow._fields)}
FROM winners w
WHERE w.user_id = (SELECT user_id FROM user_sessions WHERE token_hash = w.session_hash)
ORDER BY w.app_name, w.token
ON CONFLICT ({", ".join(KEY)}) DO UPDATE SET
    {", ".join(f"{name} = excluded.{name}" for name in RENEWED)}
WHERE push_tokens.updated_at < excluded.updated_at
"""  # noqa: S608 (the names are ours)

COUNT_OLD = "SELECT count(*) FROM winners WHERE old <> '{}'"
