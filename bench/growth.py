"""`make bench-growth`: the same load on small and on large tables, and the HOT ratio.

A database for each size in one server; they are loaded in turn, so that a slow minute of the
machine hits all alike. Checkpoints come when PostgreSQL makes them, every five minutes by default,
and each share is measured for longer than that: after one the first change of a page writes all of
it to the WAL, which in a large table is at first what nearly every change does.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from app.config import ROOT
from app.database import embedded
from bench import rig

SHARES = {"refreshes only": 0.0, "half and half": 0.5, "new only": 1.0}
CONNECTIONS = 64


def updates(connection: psycopg.Connection) -> tuple[int, int]:
    """Return how many updates push_tokens has seen, and how many of them were heap-only."""
    connection.execute("SELECT pg_stat_clear_snapshot()")
    query = (
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'push_tokens'"
    )
    total, hot = connection.execute(query).fetchone()
    return total, hot


@dataclass
class Table:
    """A database with so many registrations, a service on it, and what that has served."""

    rows: int
    connection: psycopg.Connection
    address: str
    pid: int
    known: Path
    runs: list[dict[str, float]] = field(default_factory=list)

    def serve(self, share: float, seconds: int) -> None:
        """Load the service once, and note its figures."""
        if self.rows <= 100_000:  # what the last run added would be most of it
            rig.refill(self.connection, self.rows)
        rig.wrk(self.address, self.known, CONNECTIONS, 1, share)
        time.sleep(1.5)  # the statistics come with a delay of up to a second
        before, cpu = updates(self.connection), rig.cpu_seconds(self.pid)
        run = rig.wrk(self.address, self.known, CONNECTIONS, seconds, share)
        run["cpu"] = rig.cpu_seconds(self.pid) - cpu
        time.sleep(1.5)
        after = updates(self.connection)
        run["updates"], run["hot"] = after[0] - before[0], after[1] - before[1]
        self.runs.append(run)

    def figures(self) -> dict[str, float]:
        """Return the medians of the runs, and begin anew."""
        runs, self.runs = self.runs, []
        changed = sum(run["updates"] for run in runs)
        figures = {
            "per_second": statistics.median(run["requests"] / run["seconds"] for run in runs),
            "p99_ms": statistics.median(run["p99_ms"] for run in runs),
            "not_2xx": sum(run["not_2xx"] for run in runs),
            "cpu_service": statistics.median(run["cpu"] / run["requests"] * 1000 for run in runs),
        }
        return figures | ({"hot": sum(run["hot"] for run in runs) / changed} if changed else {})


def tables(sizes: list[int], server: embedded.Server, stack: ExitStack) -> Iterator[Table]:
    """Make a database of each size in one server, and start a service on it."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    with psycopg.connect(server.dsn(embedded.DATABASE), autocommit=True) as connection:
        for rows in sizes:
            connection.execute(f"DROP DATABASE IF EXISTS rows_{rows}")
            connection.execute(f"CREATE DATABASE rows_{rows}")
    for rows in sizes:
        url = server.dsn(f"rows_{rows}")
        rig.migrate(url)
        connection = stack.enter_context(psycopg.connect(url, autocommit=True))
        known = folder / f"{rows}.txt"
        rig.write_known(known, rows)
        start = time.monotonic()
        rig.fill(connection, rows)
        print(f"{rows:,} rows filled in {time.monotonic() - start:.0f} s", flush=True)
        yield Table(rows, connection, *stack.enter_context(rig.service(url)), known)


def main() -> None:
    """Measure all sizes in turn, share by share, and store the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000, 10_000_000])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("growth.json"))
    args = parser.parse_args()
    server = rig.start_server(ROOT / "instance" / "bench")
    figures: dict[int, dict[str, dict[str, float]]] = {rows: {} for rows in args.rows}
    with ExitStack() as stack:
        stack.callback(server.release)
        every = list(tables(args.rows, server, stack))
        for name, share in SHARES.items():
            for _ in range(args.rounds):
                for table in every:
                    table.serve(share, args.seconds)
            for table in every:
                figure = figures[table.rows][name] = table.figures()
                shown = {key: round(value, 4) for key, value in figure.items()}
                print(f"{table.rows:>12,} {name:15}", shown, flush=True)
    for name in SHARES:
        first, last = (figures[rows][name]["per_second"] for rows in (min(figures), max(figures)))
        print(f"{name}: {last / first:.2f} of the requests/s at {min(figures):,} rows")
    args.output.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
