"""`make bench-growth`: the same load on small and on large tables, and the HOT ratio."""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import psycopg

from app import embedded
from app.config import ROOT
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


def measure(rows: int, rounds: int, seconds: int) -> dict[str, dict[str, float]]:
    """Fill the table, load it with each share of new push tokens, and return the medians."""
    server = rig.start_server(ROOT / "instance" / "bench")
    url = server.dsn(embedded.DATABASE)
    figures: dict[str, dict[str, float]] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        psycopg.connect(url, autocommit=True) as connection,
        rig.gunicorn(url, "wsgi:app") as (address, pid),
    ):
        known = Path(folder) / "known.txt"
        rig.write_known(known, rows)
        start = time.monotonic()
        rig.fill(connection, rows)
        print(f"{rows:,} rows filled in {time.monotonic() - start:.0f} s", flush=True)
        for name, share in SHARES.items():
            rig.wrk(address, known, CONNECTIONS, 2, share)
            time.sleep(1.5)  # the statistics come with a delay of up to a second
            before, cpu = updates(connection), rig.cpu_seconds(pid)
            runs = [rig.wrk(address, known, CONNECTIONS, seconds, share) for _ in range(rounds)]
            time.sleep(1.5)
            after = updates(connection)
            requests = sum(run["requests"] for run in runs)
            figure = {
                "per_second": statistics.median(r["requests"] / r["seconds"] for r in runs),
                "p99_ms": statistics.median(run["p99_ms"] for run in runs),
                "not_2xx": sum(run["not_2xx"] for run in runs),
                "cpu_service": (rig.cpu_seconds(pid) - cpu) / requests * 1000,
            }
            if after[0] > before[0]:
                figure["hot"] = (after[1] - before[1]) / (after[0] - before[0])
            figures[name] = figure
            print(
                f"{rows:>12,} {name:15}", {k: round(v, 4) for k, v in figure.items()}, flush=True
            )
    server.release()
    return figures


def main() -> None:
    """Measure every size and store the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000, 10_000_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("growth.json"))
    args = parser.parse_args()
    figures = {rows: measure(rows, args.rounds, args.seconds) for rows in args.rows}
    args.output.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
