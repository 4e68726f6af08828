-- What every peer and pgbench run: authenticate and register in one statement, without device ids.
-- $1 hash of the auth token, $2 user id, $3 fresh id, $4 app name, $5 push token, $6 its type
WITH live AS (
    SELECT token_hash, user_id FROM user_sessions
    WHERE token_hash = $1 AND user_id = $2 AND can_sign_in
    AND (expires_at IS NULL OR expires_at > now()) FOR KEY SHARE
)
INSERT INTO push_tokens
    (id, device_id, app_name, token, type, user_id, session_hash, created_at, updated_at)
SELECT $3, $3, $4, $5, $6, user_id, token_hash, now(), now() FROM live
ON CONFLICT (app_name, token) DO UPDATE SET type = excluded.type, user_id = excluded.user_id,
    session_hash = excluded.session_hash, updated_at = excluded.updated_at
RETURNING id, created_at, updated_at
