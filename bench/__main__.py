"""`make bench`: registrations a second, beside a bare WSGI callable and the bare statement.

Rounds are interleaved, so that a slow minute of the machine hits all alike; medians are shown.
"""

import argparse
import json
import re
import statistics
import subprocess
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg

from app.config import ROOT
from app.database import embedded
from bench import rig
from bench.bare import STATEMENT

Figures = dict[str, dict[str, float]]

PGBENCH_CLIENTS = 16
SETTLE = 1  # seconds of load that do not count


def measure(
    target: tuple[str, int, int], known: Path, database: tuple[psycopg.Connection, int], args: Any
) -> dict[str, float]:
    """Load one target once; return its figures, and stop if what was acknowledged is missing."""
    url, pid, connections = target
    connection, postmaster = database
    rig.wrk(url, known, connections, SETTLE, args.new)
    before = counters(connection)
    cpu = rig.cpu_seconds(pid), rig.cpu_seconds(postmaster)
    result = rig.wrk(url, known, connections, args.seconds, args.new)
    thousands = result["requests"] / 1000
    after = counters(connection)
    landed = after["rows"] - before["rows"]
    # wrk makes one at its start to look at, and ends with one in flight on each connection.
    assert landed >= result["new"] - connections - 1, (landed, result)
    return {
        **result,
        "per_second": result["requests"] / result["seconds"],
        "cpu_service": (rig.cpu_seconds(pid) - cpu[0]) / thousands,
        "cpu_postgresql": (rig.cpu_seconds(postmaster) - cpu[1]) / thousands,
        "pss_mib": rig.pss_mib(pid),
        "wal_bytes": (after["wal"] - before["wal"]) / result["requests"],
    }


def counters(connection: psycopg.Connection) -> dict[str, int]:
    """Return how many rows there are and how much WAL was written."""
    query = "SELECT (SELECT count(*) FROM push_tokens), pg_current_wal_lsn() - '0/0'::pg_lsn"
    rows, wal = connection.execute(query).fetchone()
    return {"rows": rows, "wal": int(wal)}


def pgbench(url: str, rows: int, seconds: float, folder: Path) -> dict[str, float]:
    """Run the bare statement by pgbench, half new and half known push tokens."""
    parts = [
        f"encode(sha256(convert_to('{part} ' || :number, 'UTF8')), 'hex')" for part in range(3)
    ]
    values = {
        "hash": "sha256(convert_to(lpad((:user)::text, 43, '0'), 'UTF8'))",
        "user": "'user' || :user",
        "id": "left(md5(random()::text), 17)",
        "app": "'chat.example'",
        "token": f"CASE WHEN :kind = 1 THEN {parts[0]} ELSE left({' || '.join(parts)}, 163) END",
        "type": "CASE WHEN :kind = 1 THEN 'apn' ELSE 'gcm' END",
    }
    statement = re.sub(r"%\((\w+)\)s", lambda m: values[m[1]], STATEMENT).replace("\n", " ")
    script = folder / "pgbench.sql"
    script.write_text(
        f"\\set known random(1, {rows - 1})\n\\set new random(1000000000, 2000000000)\n"
        "\\set number case when random(0, 1) = 1 then :known else :new end\n"
        "\\set kind :number % 2\n\\set user :number % 10000\n"
        f"{statement};\n"
    )
    command = [str(embedded.binaries() / "pgbench"), "-n", "-M", "prepared", "-f", str(script)]
    command += [f"-c{PGBENCH_CLIENTS}", "-j1", f"-T{int(seconds)}", url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (tps,) = re.findall(r"tps = ([\d.]+)", done.stdout)
    return {"per_second": float(tps)}


def run(args: Any, folder: Path, stack: ExitStack) -> Figures:
    """Start everything, take the rounds in turn, and return the medians by target."""
    server = rig.start_server(ROOT / "instance" / "bench")
    stack.callback(server.release)
    url = server.dsn(embedded.DATABASE)
    connection = stack.enter_context(psycopg.connect(url, autocommit=True))
    folder.chmod(0o755)
    known = folder / "known.txt"
    rig.write_known(known, args.rows)
    rig.fill(connection, args.rows)

    socket = f"unix:{folder}/registry.sock"
    service = stack.enter_context(rig.gunicorn(url, "wsgi:app"))
    behind = stack.enter_context(rig.gunicorn(url, "wsgi:app", "-b", socket))
    front = stack.enter_context(rig.nginx(folder))
    bare = {
        "bare gevent": rig.gunicorn(url, "bench.bare:app", BARE_CONNECTIONS="16"),
        "bare gthread": rig.gunicorn(
            *(url, "bench.bare:app", "-k", "gthread", "--threads", "8"), BARE_CONNECTIONS="8"
        ),
    }
    targets = {("service", c): (*service, c) for c in args.connections}
    targets |= {("nginx", c): (front, behind[1], c) for c in args.connections}
    for name, manager in bare.items():
        address = stack.enter_context(manager)
        targets |= {(name, c): (*address, c) for c in (1, 16, 64)}
    database = connection, server.pid()
    figures: dict[str, list[dict[str, float]]] = defaultdict(list)
    for number in range(args.rounds):
        for (name, connections), target in targets.items():
            if args.rows <= 100_000:
                rig.fill(connection, args.rows)
            figure = measure(target, known, database, args)
            figures[f"{name} {connections}"].append(figure)
            print(f"round {number + 1} {name:12} {connections:4}", show(figure), flush=True)
        figures["pgbench"].append(pgbench(url, args.rows, args.seconds, folder))
        print(f"round {number + 1} pgbench", show(figures["pgbench"][-1]), flush=True)
    return {
        name: {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        for name, rounds in figures.items()
    }


def show(figure: dict[str, float]) -> str:
    """Return the figures of a target in one line."""
    keys = ("per_second", "p50_ms", "p99_ms", "not_2xx", "broken", "cpu_service")
    keys += ("cpu_postgresql", "pss_mib", "wal_bytes", "to_bare", "to_pgbench")
    return "  ".join(f"{key} {figure[key]:.4g}" for key in keys if key in figure)


def best_bare(medians: Figures, connections: int) -> dict[str, float]:
    """Return the figures of the bare WSGI callable's better setting at so many connections."""
    kinds = [medians[f"bare {kind} {min(connections, 64)}"] for kind in ("gevent", "gthread")]
    return max(kinds, key=lambda one: one["per_second"])


def compare(medians: Figures) -> None:
    """Add the ratios to bare WSGI at as many connections and to pgbench."""
    for name, figure in medians.items():
        if name != "pgbench":
            yardstick = best_bare(medians, int(name.rpartition(" ")[2]))
            figure["to_bare"] = figure["per_second"] / yardstick["per_second"]
            figure["to_pgbench"] = figure["per_second"] / medians["pgbench"]["per_second"]


def bounds(medians: Figures) -> list[str]:
    """Say what the service promises as ratios, and what was measured."""
    one, some, many, crowd = (medians.get(f"service {c}") for c in (1, 16, 64, 256))
    if not (one and some and many and crowd):
        return []
    lone, bare = best_bare(medians, 1), best_bare(medians, 64)
    cpu = [many[key] / bare[key] for key in ("cpu_service", "cpu_postgresql")]
    failed = sum(one["not_2xx"] + one["broken"] for one in medians.values() if "not_2xx" in one)
    promises = [
        ("64 connections: requests/s to bare WSGI", many["to_bare"], ">=", 1.3),
        ("64 connections: requests/s to pgbench", many["to_pgbench"], ">=", 0.33),
        ("16 connections: requests/s to bare WSGI", some["to_bare"], ">=", 1.0),
        ("1 connection: p50 to bare WSGI", one["p50_ms"] / lone["p50_ms"], "<=", 1.3),
        ("64 connections: CPU of the service to bare WSGI", cpu[0], "<=", 1.0),
        ("64 connections: CPU of PostgreSQL to bare WSGI", cpu[1], "<=", 0.6),
        ("64 connections: p99 to p50 of a lone request", many["p99_ms"] / one["p50_ms"], "<=", 30),
        ("256 connections: MiB (PSS) of two workers", crowd["pss_mib"], "<=", 180),
        ("not 2xx, or broken", failed, "<=", 0),
    ]
    return [
        f"{'met   ' if (value >= bound if sign == '>=' else value <= bound) else 'MISSED'}"
        f" {text}: {value:.2f} (bound {sign} {bound})"
        for text, value, sign, bound in promises
    ]


def main() -> None:
    """Measure, print the medians with their ratios, and store them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--new", type=float, default=0.5, help="share of new push tokens")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results.json"))
    args = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        medians = run(args, folder, stack)
    compare(medians)
    for name, figure in medians.items():
        print(f"{name:18} {show(figure)}")
    for line in bounds(medians):
        print(line)
    args.output.write_text(json.dumps(medians, indent=1) + "\n")


if __name__ == "__main__":
    main()
