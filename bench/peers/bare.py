"""The yardstick: the same request answered by a bare WSGI callable and one statement each.

No framework, no validation to speak of, no errors: what gunicorn and psycopg cost by themselves.
"""

import hashlib
import os
import queue
from pathlib import Path

import orjson
import psycopg

STATEMENT = Path(__file__).with_name("statement.sql").read_bytes()

connections: "queue.LifoQueue[psycopg.Connection]" = queue.LifoQueue()


def connect() -> psycopg.Connection:
    """Open a connection in autocommit, whose statements are prepared at once."""
    return psycopg.connect(
        os.environ["DATABASE_URL"],
        autocommit=True,
        prepare_threshold=0,
        cursor_factory=psycopg.RawCursor,  # takes $1 as PostgreSQL does
    )


for _ in range(int(os.environ["POOL"])):
    connections.put(connect())


def app(environ, start_response):
    """Answer a registration (WSGI)."""
    fields = orjson.loads(environ["wsgi.input"].read())
    parameters = (
        hashlib.sha256(environ["HTTP_X_AUTH_TOKEN"].encode()).digest(),
        environ["HTTP_X_USER_ID"],
        os.urandom(9).hex()[:17],
        fields["appName"],
        fields["value"],
        fields["type"],
    )
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
            "userId": environ["HTTP_X_USER_ID"],
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
