"""`make soak`: registrations while their connections are killed; nothing acknowledged is lost."""

import argparse
import http.client
import json
import random
import secrets
import threading
import time
from collections import Counter
from urllib.parse import urlsplit

import psycopg

from app import embedded
from app.config import ROOT
from bench import rig

CLIENTS = 16
USERS = 100


class Client(threading.Thread):
    """Registers new push tokens until told to stop, and keeps those that were acknowledged."""

    def __init__(self, address: str, stop: threading.Event):
        super().__init__()
        self.address = urlsplit(address).netloc
        self.stop = stop
        self.statuses: Counter[int] = Counter()
        self.acknowledged: set[str] = set()

    def run(self) -> None:
        """Post until the end."""
        connection = http.client.HTTPConnection(self.address, timeout=30)
        while not self.stop.is_set():
            user, value = random.randrange(USERS), secrets.token_hex(32)
            body = json.dumps({"type": "apn", "value": value, "appName": "soak"})
            headers = {
                "X-User-Id": f"user{user}",
                "X-Auth-Token": rig.auth_token(user),
                "Content-Type": "application/json",
            }
            connection.request("POST", "/api/v1/push.token", body, headers)
            answer = connection.getresponse()
            answer.read()
            self.statuses[answer.status] += 1
            if answer.status == 200:
                self.acknowledged.add(value)


def main() -> None:
    """Load, kill connections, and compare what was acknowledged with what is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=600)
    args = parser.parse_args()
    server = rig.start_server(ROOT / "instance" / "bench")
    url = server.dsn(embedded.DATABASE)
    killed = 0
    memory = []
    with psycopg.connect(url, autocommit=True) as connection, rig.gunicorn(url, "wsgi:app") as at:
        rig.fill(connection, 0, USERS)
        stop = threading.Event()
        clients = [Client(at[0], stop) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        end = time.monotonic() + args.seconds
        while time.monotonic() < end:
            time.sleep(random.uniform(0.2, 1))
            kill = (
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            killed += connection.execute(kill).fetchone()[0]
            memory.append(rig.pss_mib(at[1]))
        stop.set()
        for client in clients:
            client.join()
        stored = {row[0] for row in connection.execute("SELECT token FROM push_tokens")}
    statuses = sum((client.statuses for client in clients), Counter())
    acknowledged = set().union(*(client.acknowledged for client in clients))
    early = memory[len(memory) // 10]
    print(f"{sum(statuses.values())} requests in {args.seconds} s: {dict(statuses)}")
    print(f"{killed} connections killed; {len(acknowledged - stored)} acknowledged rows lost")
    print(f"memory of the service {early:.0f} MiB after a tenth, {memory[-1]:.0f} MiB at the end")
    server.release()
    assert acknowledged <= stored


if __name__ == "__main__":
    main()
