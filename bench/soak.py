"""`make soak`: registrations while their connections are killed; nothing acknowledged is lost.

Clients keep what was answered with 200. Every second all of the service's connections to
PostgreSQL are terminated. At the end the table must have every registration as its last answer
said it, or later: an attempt that was answered with an error may have been stored or not.
"""

import argparse
import json
import random
import sys
import time
from urllib.parse import urlsplit

import psycopg

from app.config import ROOT
from app.database import embedded
from bench import rig
from tests.support.factories import Caller
from tests.support.load import load

KILL = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE application_name = 'push-token-registry' AND pid <> pg_backend_pid()
"""


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
        with rig.service(url) as (address, _):
            until = time.monotonic() + args.seconds
            callers = [Caller(f"user{n}", rig.auth_token(n)) for n in range(args.clients)]
            with load(urlsplit(address).netloc, callers, pace=0) as clients:
                while time.monotonic() < until:
                    time.sleep(random.uniform(0.5, 1.5))
                    killed += connection.execute(KILL).fetchone()[0]
        missing = clients.lost(connection)
    server.release()
    acknowledged = clients.acknowledged()
    result = {"acknowledged": acknowledged, "killed": killed, "lost": len(missing)}
    answers = {str(status): count for status, count in clients.statuses().items()}
    print(json.dumps(result | {"answers": answers}))
    return 1 if missing or not acknowledged else 0


if __name__ == "__main__":
    sys.exit(main())
