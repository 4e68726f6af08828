"""The statement that finds which registrations of a group meet a lock (see ../held.py)."""

from app.registry.one_node import ONE_NODE

# Each row is looked up by an index of its own accord (LATERAL with a lock is no join). What is
# there and was not skipped is free.
FIND_HELD = f"""{ONE_NODE}
WITH asked AS MATERIALIZED (
    SELECT decode(hash, 'hex') AS session_hash, j.*
    FROM json_to_recordset(%(asked)s::json) AS j (
        place integer, hash text, user_id text COLLATE "C", app_name text COLLATE "C",
        token text COLLATE "C", device_id text COLLATE "C"
    )
),
free_sessions AS MATERIALIZED (
    SELECT a.place FROM asked a CROSS JOIN LATERAL (
        SELECT 1 FROM user_sessions WHERE token_hash = a.session_hash
        FOR KEY SHARE SKIP LOCKED
    ) s
),
free_values AS MATERIALIZED (
    SELECT a.place FROM asked a CROSS JOIN LATERAL (
        SELECT 1 FROM push_tokens WHERE app_name = a.app_name AND token = a.token
        FOR UPDATE SKIP LOCKED
    ) p
),
free_devices AS MATERIALIZED (
    SELECT a.place FROM asked a CROSS JOIN LATERAL (
        SELECT 1 FROM push_tokens
        WHERE user_id = a.user_id AND app_name = a.app_name AND device_id = a.device_id
        FOR UPDATE SKIP LOCKED
    ) p
)
SELECT a.place
FROM asked a
WHERE (SELECT count(*) FROM user_sessions WHERE token_hash = a.session_hash)
        > (SELECT count(*) FROM free_sessions f WHERE f.place = a.place)
    OR (SELECT count(*) FROM push_tokens WHERE app_name = a.app_name AND token = a.token)
        > (SELECT count(*) FROM free_values f WHERE f.place = a.place)
    OR (
        SELECT count(*) FROM push_tokens
        WHERE user_id = a.user_id AND app_name = a.app_name AND device_id = a.device_id
    ) > (SELECT count(*) FROM free_devices f WHERE f.place = a.place)
"""  # noqa: S608 (no value of a caller)
