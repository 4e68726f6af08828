"""Prints what so many devices need of PostgreSQL, and what they outgrow first: docs/scale.md.

    python -m bench.scale --devices 1e9 --refreshes-per-day 1

It multiplies what `make bench-costs` measured for one registration; any Python 3.11 runs it. The
node that is compared with is what `--cores`, `--memory` and the other options of that group say.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.scale.estimate import Costs, needs_of
from bench.scale.needs import Load, Node
from bench.scale.tables import GIB, MB, of_each, of_rows, rows, table

MEASURED = Path(__file__).parents[1] / "costs.json"
MOST_DEVICES = 1e10


def number(least: float, most: float = float("inf")) -> Any:
    """Return argparse's check of a number within bounds."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
        if not least <= value <= most or value == float("inf"):
            limit = f" and at most {most:,g}" if most != float("inf") else ""
            raise argparse.ArgumentTypeError(f"{text!r} has to be at least {least:,g}{limit}")
        return value

    return parse


def parser() -> argparse.ArgumentParser:
    """Return what the command line may have."""
    made = argparse.ArgumentParser(
        prog="python -m bench.scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--devices",
        type=number(1, MOST_DEVICES),
        nargs="+",
        default=[1e6, 1e7, 1e8, 1e9],
        help="a column for each number",
    )
    made.add_argument("--costs", type=Path, default=MEASURED, help="figures of make bench-costs")
    made.add_argument("--each", action="store_true", help="print what was measured, and end")
    load = made.add_argument_group("the load: how often a day each device …, on average")
    share, often = number(0, 1), number(0, 10_000)
    load.add_argument("--refreshes-per-day", type=often, default=1, help="registers, unchanged")
    load.add_argument("--new-per-day", type=often, default=0.002, help="is new; as many go")
    load.add_argument("--rotations-per-day", type=often, default=0.005, help="has a new token")
    load.add_argument("--sign-ins-per-day", type=often, default=0.01, help="signs in anew")
    load.add_argument("--lookups-per-day", type=often, default=10, help="'s user is looked up")
    load.add_argument("--users-a-lookup", type=number(1, 1000), default=10, help="in one call")
    load.add_argument("--voip", type=share, default=0.1, help="share that has a VoIP token too")
    load.add_argument("--largest-tenant", type=share, default=1, help="its share of all")
    load.add_argument("--peak", type=number(1, 1000), default=3, help="busiest hour to average")
    load.add_argument("--group", type=number(1, 64), default=8, help="registrations a statement")
    load.add_argument("--checkpoint-minutes", type=number(0.5, 1440), default=15)
    node = made.add_argument_group("a node")
    some = number(0.001)
    node.add_argument("--cores", type=some, default=16)
    node.add_argument("--memory", type=some, default=128, help="GiB")
    node.add_argument("--disk", type=some, default=2000, help="GiB")
    node.add_argument("--wal", type=some, default=100, help="MB/s that disk and standbys take")
    node.add_argument("--reads", type=some, default=50_000, help="random reads/s of the disk")
    node.add_argument("--restore", type=some, default=250, help="MB/s of a restore")
    node.add_argument("--restore-hours", type=some, default=2, help="that a restore may take")
    node.add_argument("--bigger", type=number(1), default=4, help="the largest to be had, in such")
    return made


def costs_from(path: Path) -> Costs:
    """Return what was measured, at the largest table; SystemExit where the file has no such."""
    try:
        sizes = json.loads(path.read_text())
        largest = sizes[max(sizes, key=int)]
        whole = sizes[min(sizes, key=int)]
        # The service and a standby do not know how large the table is: measured once.
        return {**{key: whole[key] for key in ("service", "replay")}, **largest}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"{path} has no figures of make bench-costs: {error!r}") from None


def load_of(args: argparse.Namespace, devices: float) -> Load:
    """Return the load that the command line describes, of so many devices."""
    return Load(
        devices=devices,
        refreshes=args.refreshes_per_day,
        new=args.new_per_day,
        rotations=args.rotations_per_day,
        sign_ins=args.sign_ins_per_day,
        lookups=args.lookups_per_day,
        users_a_lookup=args.users_a_lookup,
        voip=args.voip,
        peak=args.peak,
        group=args.group,
        checkpoint=args.checkpoint_minutes * 60,
        largest=args.largest_tenant,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    args = parser().parse_args(arguments)
    costs = costs_from(args.costs)
    if args.each:
        print(table(of_each(costs)), table(of_rows(costs)), sep="\n\n")
        return
    node = Node(
        cores=args.cores,
        memory=args.memory * GIB,
        disk=args.disk * GIB,
        wal=args.wal * MB,
        reads=args.reads,
        restore=args.restore * MB,
        restore_hours=args.restore_hours,
        bigger=args.bigger,
    )
    loads = [load_of(args, devices) for devices in args.devices]
    columns = [rows(needs_of(load, costs), load, node) for load in loads]
    print(table([[name, *(column[name] for column in columns)] for name in columns[0]]))


if __name__ == "__main__":
    main()
