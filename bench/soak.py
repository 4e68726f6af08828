"""`make soak`: registrations while their connections are killed; nothing acknowledged is lost.

Clients keep what was answered with 200. Every second all of the service's connections to
PostgreSQL are terminated. At the end the table must have every registration as its last answer
said it, or later: an attempt that was answered with an error may have been stored or not.
"""

import argparse
import http.client
import json
import random
import sys
import threading
import time
from collections import Counter
from urllib.parse import urlsplit

import psycopg

from app import embedded
from app.config import ROOT
from app.schemas import iso
from bench import rig

PATH = "/api/v1/push.token"
KILL = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE application_name = 'push-token-registry' AND pid <> pg_backend_pid()
"""


class Client(threading.Thread):
    """One after the other: registers new push tokens and refreshes its own."""

    def __init__(self, url: str, number: int, until: float):
        super().__init__()
        self.address = urlsplit(url).netloc
        self.number = number
        self.until = until
        self.acknowledged: dict[str, dict[str, str]] = {}
        self.statuses: Counter[object] = Counter()

    def run(self) -> None:
        """Register until the time is over."""
        connection = http.client.HTTPConnection(self.address, timeout=30)
        headers = {"X-User-Id": f"user{self.number}", "X-Auth-Token": rig.auth_token(self.number)}
        headers["Content-Type"] = "application/json"
        while time.monotonic() < self.until:
            token = f"{self.number}-{random.randrange(5000)}"
            fields = {"type": "gcm", "value": token, "appName": "soak"}
            try:
                connection.request("POST", PATH, json.dumps(fields), headers)
                answer = connection.getresponse()
                said = json.load(answer)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self.statuses[type(error).__name__] += 1
                continue
            self.statuses[answer.status] += 1
            if answer.status == 200:
                self.acknowledged[token] = said["result"]


def lost(connection: psycopg.Connection, clients: list[Client]) -> list[str]:
    """Return the push tokens that are not stored as acknowledged."""
    query = "SELECT token, id, user_id, updated_at FROM push_tokens WHERE app_name = 'soak'"
    stored = {token: rest for token, *rest in connection.execute(query)}
    missing = []
    for client in clients:
        for token, said in client.acknowledged.items():
            id_, user_id, updated_at = stored.get(token, (None, None, None))
            same = (id_, user_id) == (said["_id"], said["userId"])
            if not same or iso(updated_at) < said["updatedAt"]:
                missing.append(token)
    return missing


def main() -> int:
    """Run, compare and print one JSON line; return 1 when something is lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=32)
    args = parser.parse_args()
    server = rig.start_server(ROOT / "instance" / "soak")
    url = server.dsn(embedded.DATABASE)
    killed = 0
    with psycopg.connect(url, autocommit=True) as connection:
        rig.fill(connection, 0)
        with rig.gunicorn(url, "wsgi:app") as (address, _):
            until = time.monotonic() + args.seconds
            clients = [Client(address, number, until) for number in range(args.clients)]
            for client in clients:
                client.start()
            while time.monotonic() < until:
                time.sleep(random.uniform(0.5, 1.5))
                killed += connection.execute(KILL).fetchone()[0]
            for client in clients:
                client.join()
        missing = lost(connection, clients)
    server.release()
    statuses = sum((client.statuses for client in clients), Counter())
    acknowledged = sum(len(client.acknowledged) for client in clients)
    result = {"acknowledged": acknowledged, "killed": killed, "lost": len(missing)}
    print(json.dumps(result | {"answers": {str(k): n for k, n in statuses.items()}}))
    return 1 if missing or not acknowledged else 0


if __name__ == "__main__":
    sys.exit(main())
