"""`make bench-lookup`: lookup of 1,000 users among a million rows, beside its bare SQL."""

import http.client
import json
import random
import statistics
import subprocess
import sys
import time
from urllib.parse import urlsplit

import psycopg

from app.config import ROOT
from app.database import embedded
from bench import rig

ROWS, USERS, ASKED, ROUNDS = 1_000_000, 333_334, 1000, 15

BARE = """
SELECT p.id, p.app_name, p.token, p.type, p.user_id, p.enabled, p.created_at, p.updated_at
FROM push_tokens p JOIN user_sessions s ON s.token_hash = p.session_hash
WHERE p.user_id = ANY(%s) AND p.enabled AND s.can_sign_in
AND (s.expires_at IS NULL OR s.expires_at > now())
ORDER BY p.user_id, p.id
"""


def issue_key(url: str) -> str:
    """Return a new service key."""
    command = [sys.executable, "-m", "flask", "service-keys", "issue", "bench"]
    command += ["--scope", "lookup"]
    environ = {"DATABASE_URL": url, "PATH": ""}
    done = subprocess.run(command, cwd=ROOT, env=environ, check=True, capture_output=True)
    key: str = json.loads(done.stdout)["key"]
    return key


def main() -> None:
    """Fill the table, take both in turn, and print the medians and their ratio."""
    server = rig.start_server(ROOT / "instance" / "bench")
    url = server.dsn(embedded.DATABASE)
    calls, bare, found = [], [], 0
    with psycopg.connect(url, autocommit=True) as connection, rig.service(url) as at:
        rig.fill(connection, ROWS, USERS)
        headers = {"Authorization": f"Bearer {issue_key(url)}", "Content-Type": "application/json"}
        client = http.client.HTTPConnection(urlsplit(at[0]).netloc)
        for _ in range(ROUNDS + 3):
            users = [f"user{n}" for n in random.sample(range(USERS), ASKED)]
            start = time.perf_counter()
            rows = connection.execute(BARE, (users,)).fetchall()
            bare.append(time.perf_counter() - start)
            start = time.perf_counter()
            body = json.dumps({"userIds": users})
            client.request("POST", "/api/v1/push.tokens.lookup", body, headers)
            answer = client.getresponse().read()
            calls.append(time.perf_counter() - start)
            found = len(json.loads(answer)["tokens"])
            assert found == len(rows)
    server.release()
    call, sql = statistics.median(calls[3:]) * 1000, statistics.median(bare[3:]) * 1000
    print(f"{found} registrations of {ASKED} users among {ROWS:,} rows, medians of {ROUNDS}:")
    print(f"lookup {call:.1f} ms, bare SQL {sql:.1f} ms, ratio {call / sql:.2f}")


if __name__ == "__main__":
    main()
