"""`make bench`: registrations a second beside hand-written peers and the bare statement.

Rounds are interleaved, so that a slow minute of the machine hits all alike; medians are shown.
Half of the load bears a device id, as today's apps send it, one in ten of these a rotation; the
targets "with ids" and "without ids" are the service where all of it does, and none. These two
differ by less than two minutes of a machine do, so each round has a ratio, and the medians are of
those. For more rounds of them alone:

    python -m bench --ours "with ids" "without ids" --peers --connections 16 64 --rounds 12
"""

import argparse
import json
import shutil
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from app.config import ROOT
from app.database import embedded
from bench import peers, rig
from bench.bounds import OF_IDS, Figures, bounds

SETTLE = 1  # seconds of load that do not count
TRIED_AT = 64  # connections at which a peer's best setting is found
OURS = {"service": 0.5, "without ids": 0.0, "with ids": 1.0}  # share that names its device
COUNTS = ("not_2xx", "broken")  # of all rounds together: a median would hide them


@dataclass(frozen=True)
class Target:
    """What is loaded, with which share of device ids."""

    name: str
    url: str
    pid: int
    ids: float = 0.5


@dataclass(frozen=True)
class Bench:
    """The database below all targets, and the load."""

    args: Any
    folder: Path
    url: str
    connection: psycopg.Connection
    postmaster: int

    def measure(self, target: Target, connections: int) -> dict[str, float]:
        """Load one target once; return its figures, and stop if what it answered is missing."""
        known = self.folder / "known.txt"
        rig.fill(self.connection, self.args.rows)
        rig.write_known(known, self.args.rows, ids=target.ids)
        rig.wrk(target.url, known, connections, SETTLE, self.args.new)
        before = self.counters(target)
        result = rig.wrk(target.url, known, connections, self.args.seconds, self.args.new)
        after = self.counters(target)
        used = {key: after[key] - before[key] for key in before}
        requests = result["requests"]
        # wrk makes one at its start to look at, and ends with one in flight on each connection.
        unsure = connections + 1 + result["not_2xx"] + result["broken"]
        assert used["rows"] >= result["new"] - unsure, (used, result)
        return {
            **result,
            "per_second": requests / result["seconds"],
            "cpu_service": used["service"] / requests * 1000,
            "cpu_postgresql": used["postgresql"] / requests * 1000,
            "pss_mib": rig.pss_mib(target.pid),
            "wal_bytes": used["wal"] / requests,
        }

    def counters(self, target: Target) -> dict[str, float]:
        """Return rows, bytes of WAL, and CPU seconds of the target and of PostgreSQL."""
        query = "SELECT (SELECT count(*) FROM push_tokens), pg_current_wal_lsn() - '0/0'::pg_lsn"
        rows, wal = self.connection.execute(query).fetchone()
        cpu = {"service": rig.cpu_seconds(target.pid)}
        return {
            **cpu,
            "postgresql": rig.cpu_seconds(self.postmaster),
            "rows": rows,
            "wal": int(wal),
        }

    def best_setting(self, peer: peers.Peer) -> int:
        """Try a peer's settings one after another; return the one that serves most."""
        served = {}
        for setting in peer.settings:
            with peer.start(self.url, setting) as address:
                figure = self.measure(Target(peer.name, *address), TRIED_AT)
            served[setting] = figure["per_second"]
            print(f"{peer.name} with {setting} {peer.what} each: {show(figure)}", flush=True)
        return max(served, key=lambda setting: served[setting])


def start_targets(bench: Bench, stack: ExitStack, notes: list[str]) -> Iterator[Target]:
    """Start the service, nginx and every peer at its best; note what was chosen or left out."""
    args = bench.args
    chosen = {}
    for peer in (peer for peer in peers.PEERS if peer.name in args.peers):
        if program := peer.missing():
            notes.append(f"{peer.name} was left out: there is no {program}")
            continue
        peer.install()
        chosen[peer] = best = bench.best_setting(peer)
        notes.append(f"{peer.name} has {best} {peer.what} in each of its 2 processes")
    address = stack.enter_context(rig.service(bench.url))
    for name, share in OURS.items():
        if name in args.ours:
            yield Target(name, *address, ids=share)
    is_wanted = "nginx" in args.ours
    if is_wanted and shutil.which("nginx"):
        behind = rig.service(bench.url, f"{bench.folder}/registry.sock")
        _, pid = stack.enter_context(behind)
        yield Target("nginx", stack.enter_context(rig.nginx(bench.folder)), pid)
    elif is_wanted:
        notes.append("nginx was left out: there is none")
    for peer, setting in chosen.items():
        yield Target(peer.name, *stack.enter_context(peer.start(bench.url, setting)))


def run(args: Any, stack: ExitStack, notes: list[str]) -> Figures:
    """Start everything, take the rounds in turn, and return the medians by target."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    folder.chmod(0o755)
    server = rig.start_server(ROOT / "instance" / "bench")
    stack.callback(server.release)
    url = server.dsn(embedded.DATABASE)
    connection = stack.enter_context(psycopg.connect(url, autocommit=True))
    bench = Bench(args, folder, url, connection, server.pid())
    targets = list(start_targets(bench, stack, notes))
    pgbench = peers.pgbench_program()
    if not pgbench:
        notes.append("pgbench was left out: there is none")
    figures: dict[str, list[dict[str, float]]] = defaultdict(list)
    for number in range(1, args.rounds + 1):
        # All targets at so many connections within a minute, as they are compared.
        for connections in args.connections:
            for target in targets if number % 2 else targets[::-1]:
                figure = bench.measure(target, connections)
                figures[f"{target.name} {connections}"].append(figure)
                print(f"round {number} {target.name:12} {connections:4}", show(figure), flush=True)
        if pgbench:
            rig.fill(connection, args.rows)
            figure = peers.pgbench(pgbench, url, args.rows, args.seconds, folder)
            figures["pgbench"].append(figure)
            print(f"round {number} pgbench", show(figure), flush=True)
    medians = {name: together(rounds) for name, rounds in figures.items()}
    for connections in args.connections:
        of_ids = [figures[f"{name} {connections}"] for name in ("with ids", "without ids")]
        for key in OF_IDS if all(of_ids) else ():
            ratio = statistics.median(
                one[key] / two[key] for one, two in zip(*of_ids, strict=True)
            )
            medians[f"with ids {connections}"][f"{key}_to_without"] = ratio
    return medians


def together(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Return the medians of a target's rounds, and the sum of what failed."""
    return {
        key: (sum if key in COUNTS else statistics.median)(one[key] for one in rounds)
        for key in rounds[0]
    }


def show(figure: dict[str, float]) -> str:
    """Return the figures of a target in one line."""
    keys = ("per_second", "p50_ms", "p99_ms", "not_2xx", "broken", "cpu_service")
    keys += ("cpu_postgresql", "pss_mib", "wal_bytes")
    return "  ".join(f"{key} {figure[key]:.4g}" for key in keys if key in figure)


def main() -> None:
    """Measure, print the medians and the bounds, and store them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--new", type=float, default=0.5, help="share of new push tokens")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64, 256])
    ours = [*OURS, "nginx"]
    parser.add_argument("--ours", nargs="*", choices=ours, default=ours)
    names = [peer.name for peer in peers.PEERS]
    parser.add_argument("--peers", nargs="*", choices=names, default=names)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results.json"))
    args = parser.parse_args()
    notes: list[str] = []
    with ExitStack() as stack:
        medians = run(args, stack, notes)
    promised = bounds(medians)
    print()
    for name, figure in medians.items():
        print(f"{name:18} {show(figure)}")
    print("", *notes, "", *promised, sep="\n")
    kept = [{**bound._asdict(), "verdict": bound.verdict} for bound in promised]
    stored = {"notes": notes, "bounds": kept, "figures": medians}
    args.output.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
