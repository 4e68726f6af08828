"""`make bench-hot`: what a million refreshes of 100,000 rows leave of the table, by its settings.

Candidates are storage parameters of `push_tokens`, tried one after another on a table filled by
COPY. The refreshes are the statement of the hot path, in groups as a loaded worker forms them,
over rows drawn at random. HOT is the share of updates that touched no index; sizes are in MiB.

A registration from another session of its user, as after a new sign-in, is never HOT: `--moved`
is the share of those. Autovacuum looks every second, so that thresholds decide when it comes.
"""

import argparse
import hashlib
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import psycopg

from app.config import ROOT
from app.database import embedded
from app.identifiers import fresh_id
from app.registry.registration import COLUMNS, PLAN, REGISTER_MANY
from bench import rig
from bench.growth import updates

CANDIDATES = [f"fillfactor={factor}" for factor in (100, 95, 90, 85, 80, 70)]
CLIENTS = 4
GROUP = 20
USERS = 10_000
SECOND_SESSIONS = f"""
INSERT INTO user_sessions (token_hash, user_id)
SELECT sha256(convert_to(lpad((i + {USERS})::text, 43, '0'), 'UTF8')), 'user' || i
FROM generate_series(0, {USERS - 1}) i
"""


def refresh(url: str, rows: int, number: int, moved: float, seed: int) -> None:
    """Refresh `number` rows drawn at random, over one connection."""
    draw = random.Random(seed)
    hashes = [hashlib.sha256(rig.auth_token(n).encode()).digest() for n in range(2 * USERS)]
    with psycopg.connect(url, autocommit=True, prepare_threshold=0) as connection:
        for setting in PLAN:
            connection.execute(setting, prepare=False)
        for _ in range(number // GROUP):
            drawn = draw.sample(range(rows), GROUP)
            kinds, tokens = zip(*map(rig.push_token, drawn), strict=True)
            values = (
                [hashes[n % USERS + USERS * (draw.random() < moved)] for n in drawn],
                [f"user{n % USERS}" for n in drawn],
                ["chat.example"] * GROUP,
                list(tokens),
                list(kinds),
                ["production"] * GROUP,
                [fresh_id() for _ in drawn],
            )
            connection.execute(REGISTER_MANY, dict(zip(COLUMNS, values, strict=True)))


def sizes(connection: psycopg.Connection) -> tuple[float, float]:
    """Return the sizes of the table and of its indexes, in MiB."""
    query = "SELECT pg_table_size('push_tokens'), pg_indexes_size('push_tokens')"
    table, indexes = connection.execute(query).fetchone()
    return table / 2**20, indexes / 2**20


def vacuums(connection: psycopg.Connection) -> int:
    """Return how often autovacuum has been over the table."""
    query = "SELECT autovacuum_count FROM pg_stat_user_tables WHERE relname = 'push_tokens'"
    return int(connection.execute(query).fetchone()[0])


def run(url: str, args: argparse.Namespace, number: int) -> None:
    """Refresh `number` rows over all connections."""
    task = (url, args.rows, number // CLIENTS, args.moved)
    threads = [threading.Thread(target=refresh, args=(*task, seed)) for seed in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextmanager
def snapshot(url: str) -> Iterator[None]:
    """Hold a snapshot, as a backup does: no dead row can be pruned meanwhile."""
    with psycopg.connect(url) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT 1")
        yield


def hot(connection: psycopg.Connection, before: tuple[int, int]) -> float:
    """Return the share of heap-only updates since `before`."""
    time.sleep(1.5)  # the statistics come with a delay of up to a second
    after = updates(connection)
    return (after[1] - before[1]) / (after[0] - before[0])


def measure(connection: psycopg.Connection, url: str, candidate: str, args: argparse.Namespace):
    """Fill the table under the candidate's settings, refresh it, and print what became of it."""
    names = connection.execute(
        "SELECT split_part(unnest(reloptions), '=', 1) FROM pg_class WHERE relname = 'push_tokens'"
    )
    for (name,) in names.fetchall():
        connection.execute(f"ALTER TABLE push_tokens RESET ({name})")
    connection.execute(f"ALTER TABLE push_tokens SET ({candidate})")
    rig.fill(connection, args.rows, USERS)
    connection.execute(SECOND_SESSIONS)
    time.sleep(1.5)
    before, first, swept = updates(connection), sizes(connection), vacuums(connection)
    wal = connection.execute("SELECT pg_current_wal_lsn()").fetchone()[0]
    start = time.monotonic()
    with snapshot(url) if args.snapshot else nullcontext():
        run(url, args, args.refreshes // 10)
        fresh = hot(connection, before)
        run(url, args, args.refreshes * 9 // 10)
    seconds = time.monotonic() - start
    written = connection.execute("SELECT pg_current_wal_lsn() - %s::pg_lsn", (wal,)).fetchone()[0]
    last = sizes(connection)
    print(
        f"{candidate:52} HOT {hot(connection, before):7.2%} (first tenth {fresh:7.2%})"
        f"  table {first[0]:6.1f} -> {last[0]:6.1f}  indexes {first[1]:6.1f} -> {last[1]:6.1f}"
        f"  WAL bytes each {int(written) / args.refreshes:5.0f}"
        f"  per second {args.refreshes / seconds:6.0f}"
        f"  autovacuums {vacuums(connection) - swept}",
        flush=True,
    )


def main() -> None:
    """Measure every candidate in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--refreshes", type=int, default=1_000_000)
    parser.add_argument("--moved", type=float, default=0, help="share from another session")
    parser.add_argument("--snapshot", action="store_true", help="hold one, as a backup does")
    parser.add_argument("candidates", nargs="*", default=CANDIDATES)
    args = parser.parse_args()
    server = rig.start_server(ROOT / "instance" / "bench")
    try:
        url = server.dsn(embedded.DATABASE)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
            connection.execute("SELECT pg_reload_conf()")
            print(f"{args.refreshes:,} refreshes of {args.rows:,} rows by {CLIENTS} connections")
            for candidate in args.candidates:
                measure(connection, url, candidate, args)
            connection.execute("ALTER SYSTEM RESET autovacuum_naptime")
    finally:
        server.release()


if __name__ == "__main__":
    main()
