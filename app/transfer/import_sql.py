"""The statements that merge a batch of imported rows, in the order in which they run.

A batch is one transaction. It locks sessions first, in token_hash order, then registrations in
(app_name, token) order, like every other writer; the statements before these only read.
"""

from datetime import datetime

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
CREATE TEMPORARY TABLE winners (LIKE staged, old_id text COLLATE "C") ON COMMIT DELETE ROWS;
"""

STAGE = "COPY staged FROM STDIN"

# An unknown session belongs to the first row that names it.
MISFITS = """
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
"""

DROP_MISFITS = "DELETE FROM staged WHERE line = ANY (%(lines)s)"

PICK_WINNERS = """
INSERT INTO winners
SELECT DISTINCT ON (s.app_name, s.token) s.*, p.id
FROM staged s
LEFT JOIN push_tokens p ON p.app_name = s.app_name AND p.token = s.token
WHERE p.id IS NULL OR p.updated_at < s.updated_at
ORDER BY s.app_name, s.token, s.updated_at DESC, s.line
"""

TAKEN_IDS = """
SELECT w.line
FROM (
    SELECT line, id, old_id, row_number() OVER (PARTITION BY id ORDER BY updated_at DESC, line) n
    FROM winners
) w
LEFT JOIN push_tokens p ON p.id = w.id
WHERE n > 1 OR p.id <> coalesce(w.old_id, '')
"""

RENAME = """
UPDATE winners SET id = coalesce(old_id, renamed.id)
FROM unnest(%(lines)s::bigint[], %(ids)s::text[]) renamed (line, id)
WHERE winners.line = renamed.line
"""

# The update changes nothing, but locks existing sessions like new ones.
KEEP_SESSIONS = """
INSERT INTO user_sessions (token_hash, user_id, can_sign_in)
SELECT DISTINCT ON (session_hash) session_hash, user_id, false
FROM winners
ORDER BY session_hash, line
ON CONFLICT (token_hash) DO UPDATE SET can_sign_in = user_sessions.can_sign_in WHERE false
"""

# The sessions are looked up one by one, not joined: while PostgreSQL takes a growing table for
# small, a join may read all sessions, and the batch for each of them.
LOCK_SESSIONS = """
SELECT token_hash
FROM user_sessions
WHERE can_sign_in AND token_hash = ANY (ARRAY(SELECT DISTINCT session_hash FROM winners))
ORDER BY token_hash
FOR KEY SHARE
"""

MERGE = f"""
INSERT INTO push_tokens ({", ".join(ImportRow._fields)})
SELECT {", ".join(f"w.{name}" for name in ImportRow._fields)}
FROM winners w
WHERE w.user_id = (SELECT user_id FROM user_sessions WHERE token_hash = w.session_hash)
ORDER BY w.app_name, w.token
ON CONFLICT ({", ".join(KEY)}) DO UPDATE SET
    {", ".join(f"{name} = excluded.{name}" for name in ImportRow._fields if name not in KEY)}
WHERE push_tokens.updated_at < excluded.updated_at
"""  # noqa: S608 (the names are ours)

COUNT_OLD = "SELECT count(old_id) FROM winners"
