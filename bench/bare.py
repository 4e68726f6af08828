"""The yardstick: the same request answered by a bare WSGI callable and one statement each.

No framework, no validation to speak of, no errors: what gunicorn and psycopg cost by themselves.
"""

import hashlib
import os
import queue

import orjson
import psycopg

STATEMENT = """
WITH live AS (
    SELECT token_hash, user_id FROM user_sessions
    WHERE token_hash = %(hash)s AND user_id = %(user)s AND can_sign_in
    AND (expires_at IS NULL OR expires_at > now()) FOR KEY SHARE
)
INSERT INTO push_tokens (id, app_name, token, type, user_id, session_hash, created_at, updated_at)
SELECT %(id)s, %(app)s, %(token)s, %(type)s, user_id, token_hash, now(), now() FROM live
ON CONFLICT (app_name, token) DO UPDATE SET type = excluded.type, user_id = excluded.user_id,
    session_hash = excluded.session_hash, updated_at = excluded.updated_at
RETURNING id, created_at, updated_at
"""

connections: "queue.LifoQueue[psycopg.Connection]" = queue.LifoQueue()


def connect() -> psycopg.Connection:
    """Open a connection in autocommit, whose statements are prepared at once."""
    return psycopg.connect(os.environ["DATABASE_URL"], autocommit=True, prepare_threshold=0)


for _ in range(int(os.environ.get("BARE_CONNECTIONS", "0"))):
    connections.put(connect())


def app(environ, start_response):
    """Answer a registration (WSGI)."""
    fields = orjson.loads(environ["wsgi.input"].read())
    parameters = {
        "hash": hashlib.sha256(environ["HTTP_X_AUTH_TOKEN"].encode()).digest(),
        "user": environ["HTTP_X_USER_ID"],
        "id": os.urandom(9).hex()[:17],
        "app": fields["appName"],
        "token": fields["value"],
        "type": fields["type"],
    }
    connection = connections.get()
    try:
        row = connection.execute(STATEMENT, parameters).fetchone()
    finally:
        connections.put(connection)
    status = "200 OK"
    if row is None:
        status, answer = "401 Unauthorized", {"status": "error"}
    else:
        result = {
            "token": {fields["type"]: fields["value"]},
            "appName": fields["appName"],
            "userId": parameters["user"],
            "enabled": True,
            "createdAt": row[1].isoformat(),
            "updatedAt": row[2].isoformat(),
            "_id": row[0],
        }
        answer = {"result": result, "success": True}
    body = orjson.dumps(answer)
    start_response(
        status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    )
    return [body]
