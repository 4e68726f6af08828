"""No request of one caller delays others' registrations by more than a quarter of a second.

One worker; the largest requests that each call allows, several at once, and hostile ones of the
same size, while another user registers. Measured from outside.
"""

import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import psycopg
import pytest

from tests.support.factories import body
from tests.support.live import Live, ask, family, serve
from tests.support.patience import keeps, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.alone]

AT_ONCE = 3
SECONDS = 2  # of each kind
DELAY = 0.25  # seconds
MEMORY = 300 * 1024  # KiB
CROWD = 43_200  # registrations of one user, a day's within nginx's limits
LONG = "é" * 127  # 254 bytes
NOW = datetime.now(UTC).isoformat()
LOOKUPS = """
SELECT pid FROM pg_stat_activity
WHERE state = 'active' AND query LIKE '%theirs%' AND pid <> pg_backend_pid()
"""
READ = """
SELECT pg_stat_clear_snapshot(), idx_tup_fetch FROM pg_stat_user_tables
WHERE relname = 'push_tokens'
"""


def hashed(number: int) -> str:
    return f"{number:042d}A="


def verdict(number: int) -> dict[str, object]:
    return {
        "appName": LONG,
        "value": f"{number:06d}" + "ü" * 1021,
        "provider": "fcm",
        "status": 404,
        "error": "UNREGISTERED",
        "sentAt": NOW,
    }


def told(**fields: object) -> bytes:
    """Return the body of a call with one verdict."""
    return json.dumps({"results": [verdict(0) | fields]}, ensure_ascii=False).encode()


LOOKUP, LIST = "/api/v1/push.tokens.lookup", "/api/v1/push.tokens.list"
FEEDBACK, PUT = "/api/v1/push.tokens.feedback", "/api/v1/sessions.put"
REVOKE, OWN = "/api/v1/sessions.revoke", "/api/v1/push.token"
REQUESTS = {
    "lookup": (LOOKUP, {"userIds": [f"{number:04d}{LONG[:125]}" for number in range(1000)]}),
    "lookup of crowds": (LOOKUP, {"userIds": [f"crowd{number}" for number in range(1000)]}),
    "lookup of one": (LOOKUP, {"userIds": ["alice"]}),
    "list": (LIST, {"count": 1000}),
    "feedback": (FEEDBACK, {"results": [verdict(number) for number in range(1000)]}),
    "put": (
        PUT,
        {
            "sessions": [
                {"userId": LONG, "hashedToken": hashed(n), "expiresAt": NOW} for n in range(1000)
            ]
        },
    ),
    "revoke": (
        REVOKE,
        {"userId": LONG, "exceptHashedTokens": [hashed(n) for n in range(1000)]},
    ),
    "zeros": (LOOKUP, b'{"userIds":[' + b"0," * 500_000 + b"0]}"),
    "empty objects": (FEEDBACK, b'{"results":[' + b"{}," * 5_000_000 + b"{}]}"),
    "brackets": (FEEDBACK, b"[" * 16_000_000),
    "one long string": (FEEDBACK, b'{"results":"' + b"x" * 16_000_000 + b'"}'),
    "a long moment": (FEEDBACK, told(sentAt="\U0001f600" + "\x80" * 8_300_000)),
    "a long code": (FEEDBACK, told(error="A" * 16_000_000 + "\U0001f600")),
    "own list": (OWN, None),
}


@pytest.fixture(scope="module")
def crowded(database_url: str):
    with serve(database_url) as live:
        yield live


def resident(live: Live) -> int:
    """Return the most memory that the worker has had, in KiB."""
    (worker,) = family(live.process.pid)[1:]
    (line,) = [
        line
        for line in Path(f"/proc/{worker}/status").read_text().splitlines()
        if line.startswith("VmHWM")
    ]
    return int(line.split()[1])


def fill(database, alice) -> None:
    """Give one user 43,200 registrations, and 1,000 users 100 each; 300 have the longest."""
    insert = (
        "INSERT INTO push_tokens (id, device_id, app_name, token, type, user_id, session_hash)"
        " SELECT v, v, 'app', v || x, 'gcm', u, %s FROM "
    )
    database.execute(
        insert + "(SELECT 'a' || n AS v, 'alice' AS u, repeat('x', 150) AS x"
        f" FROM generate_series(1, {CROWD}) n) made",
        alice.token_hash,
    )
    database.execute(
        insert + "(SELECT u || '-' || n AS v, 'crowd' || u AS u,"
        " repeat(md5(u || '-' || n), CASE WHEN u < 300 THEN 60 ELSE 5 END) AS x"
        " FROM generate_series(0, 999) u, generate_series(1, 100) n) made",
        alice.token_hash,
    )
    database.execute("VACUUM ANALYZE push_tokens")


def send_until(ended: threading.Event, live: Live, path: str, data: bytes | None, headers) -> list:
    """Make a call again and again; return the statuses."""
    statuses = []
    while not ended.is_set() or not statuses:
        method = "GET" if data is None else "POST"
        statuses.append(ask(live, path, data, method=method, **headers)[0])
    return statuses


def longest_delay(live: Live, caller, send: Callable[[threading.Event], list[int]]) -> float:
    """Return the seconds of the slowest registration of a caller while others send."""
    ended = threading.Event()
    delays = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        senders = [pool.submit(send, ended) for _ in range(AT_ONCE)]
        try:
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                start = time.monotonic()
                status, _, said = ask(live, OWN, body(value="neighbour"), **caller.headers)
                delays.append(time.monotonic() - start)
                assert status == 200, said
        finally:
            ended.set()
        for sender in senders:
            assert set(sender.result()) <= {200, 400, 413, 503}
    return max(delays)


def test_the_largest_requests_delay_no_registration(
    crowded, database, alice, bob, issue, measured
):
    fill(database, alice)
    headers = {**alice.headers, **issue("lookup", "feedback", "sessions")}
    for name, (path, fields) in REQUESTS.items():
        as_it_is = fields is None or isinstance(fields, bytes)
        data = fields if as_it_is else json.dumps(fields).encode()
        send = partial(send_until, live=crowded, path=path, data=data, headers=headers)
        measured(**{name: keeps(DELAY, partial(longest_delay, crowded, bob, send))})
        assert resident(crowded) < MEMORY, name


def test_long_answers_that_nobody_takes_fill_no_memory(
    crowded, database, alice, bob, issue, database_url
):
    fill(database, alice)
    data = json.dumps(REQUESTS["lookup of crowds"][1]).encode()
    headers = {**issue("lookup"), "Content-Type": "application/json", "Content-Length": len(data)}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    asked = f"POST {LOOKUP} HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode() + data
    clients = [socket.socket() for _ in range(20)]
    for client in clients:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", crowded.port))
        client.sendall(asked)
    for client in clients:  # each has its first bytes, or was refused
        client.settimeout(180)
        said = client.recv(500).lower()
        assert said.startswith(b"http/1.1 200") or (
            said.startswith(b"http/1.1 503") and b"\r\nretry-after: 1\r\n" in said
        ), said
    assert ask(crowded, OWN, body(value="neighbour"), **bob.headers)[0] == 200
    assert resident(crowded) < MEMORY
    for client in clients:
        client.close()
    with psycopg.connect(database_url, autocommit=True) as watch:
        wait_until(lambda: not watch.execute(LOOKUPS).fetchone())
        before = watch.execute(READ).fetchone()
        time.sleep(1)  # nothing goes on for who has left
        assert watch.execute(READ).fetchone() == before
