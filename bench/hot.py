"""`make bench-hot`: what a million refreshes of 100,000 rows leave of the table, by its settings.

Candidates are storage parameters of `push_tokens`, tried one after another on a table filled by
COPY. The service refreshes rows drawn at random, half of them with their device id. HOT is the
share of updates that touched no index; sizes are in MiB.

A registration from another session of its user, as after a new sign-in, is never HOT: `--moved`
is the share of those. Autovacuum looks every second, so that thresholds decide when it comes.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import psycopg

from app.config import ROOT
from app.database import embedded
from bench import rig
from bench.growth import updates

CANDIDATES = [f"fillfactor={factor}" for factor in (100, 95, 90, 85, 80, 70)]
CONNECTIONS = 64
SLICE = 5  # seconds between two looks at how many were refreshed
USERS = 10_000
SECOND_SESSIONS = f"""
INSERT INTO user_sessions (token_hash, user_id)
SELECT sha256(convert_to(lpad((i + {USERS})::text, 43, '0'), 'UTF8')), 'user' || i
FROM generate_series(0, {USERS - 1}) i
"""


def write_known(path: Path, rows: int, moved: float) -> None:
    """Write every row for post.lua, so many of them twice that `moved` change their session.

    Of the refreshes of a row that is there with two sessions half come from the other one.
    """
    rig.write_known(path, rows, users=USERS, most=rows)
    lines = path.read_text().splitlines()
    for line in lines[: round(rows * moved / (1 - moved))]:
        user, auth, rest = line.split(maxsplit=2)
        lines.append(f"{user} {rig.auth_token(int(auth) + USERS)} {rest}")
    path.write_text("\n".join(lines) + "\n")


def sizes(connection: psycopg.Connection) -> tuple[float, float]:
    """Return the sizes of the table and of its indexes, in MiB."""
    query = "SELECT pg_table_size('push_tokens'), pg_indexes_size('push_tokens')"
    table, indexes = connection.execute(query).fetchone()
    return table / 2**20, indexes / 2**20


def vacuums(connection: psycopg.Connection) -> int:
    """Return how often autovacuum has been over the table."""
    query = "SELECT autovacuum_count FROM pg_stat_user_tables WHERE relname = 'push_tokens'"
    return int(connection.execute(query).fetchone()[0])


def run(address: str, known: Path, number: int) -> int:
    """Refresh at least `number` rows; return how many."""
    done = 0
    while done < number:
        result = rig.wrk(address, known, CONNECTIONS, SLICE, 0, rotated=0)
        assert not result["not_2xx"], result
        done += int(result["requests"])
    return done


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


def measure(
    connection: psycopg.Connection,
    service: tuple[str, str, Path],
    candidate: str,
    args: argparse.Namespace,
) -> None:
    """Fill the table under the candidate's settings, refresh it, and print what became of it."""
    url, address, known = service
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
        done = run(address, known, args.refreshes // 10)
        fresh = hot(connection, before)
        done += run(address, known, args.refreshes - done)
    seconds = time.monotonic() - start
    written = connection.execute("SELECT pg_current_wal_lsn() - %s::pg_lsn", (wal,)).fetchone()[0]
    last = sizes(connection)
    print(
        f"{candidate:52} HOT {hot(connection, before):7.2%} (first tenth {fresh:7.2%})"
        f"  table {first[0]:6.1f} -> {last[0]:6.1f}  indexes {first[1]:6.1f} -> {last[1]:6.1f}"
        f"  WAL bytes each {int(written) / done:5.0f}"
        f"  per second {done / seconds:6.0f}"
        f"  autovacuums {vacuums(connection) - swept}",
        flush=True,
    )


def main() -> None:
    """Measure every candidate in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--refreshes", type=int, default=1_000_000)
    parser.add_argument("--moved", type=float, default=0, help="share from another session, < 0.5")
    parser.add_argument("--snapshot", action="store_true", help="hold one, as a backup does")
    parser.add_argument("candidates", nargs="*", default=CANDIDATES)
    args = parser.parse_args()
    server = rig.start_server(ROOT / "instance" / "bench")
    url = server.dsn(embedded.DATABASE)
    with ExitStack() as stack:
        stack.callback(server.release)
        known = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "known.txt"
        write_known(known, args.rows, args.moved)
        connection = stack.enter_context(psycopg.connect(url, autocommit=True))
        connection.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
        stack.callback(connection.execute, "ALTER SYSTEM RESET autovacuum_naptime")
        connection.execute("SELECT pg_reload_conf()")
        address, _ = stack.enter_context(rig.service(url))
        print(f"{args.refreshes:,} refreshes of {args.rows:,} rows, {CONNECTIONS} connections")
        for candidate in args.candidates:
            measure(connection, (url, address, known), candidate, args)


if __name__ == "__main__":
    main()
