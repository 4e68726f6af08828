"""What is printed: numbers with three digits that count, in lines of cells."""

from collections.abc import Sequence

from bench.scale.estimate import Costs
from bench.scale.needs import CACHED, DAY, Load, Needs, Node, way

GIB = 2**30
MB = 1e6


def count(value: float) -> str:
    """Return a number with about three digits that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def rows(needs: Needs, load: Load, node: Node) -> dict[str, str]:
    """Return the lines of one column, by what they say."""
    uses = needs.uses(node)
    first = max(uses, key=lambda name: uses[name])
    return {
        "devices": f"{load.devices:,.0f}",
        "registrations/s, average": count(needs.average),
        "registrations/s, peak": count(needs.peak),
        "users looked up/s, peak": count(needs.lookups),
        "cores of the service, peak": count(needs.service_cores),
        "cores of PostgreSQL, peak": count(needs.cores),
        "  of them for lookups": count(needs.lookup_cores),
        "tables, GiB": count(needs.tables / GIB),
        "indexes, GiB": count(needs.indexes / GIB),
        "memory to hold them, GiB": count((needs.tables + needs.indexes) / CACHED / GIB),
        "disk to order, GiB": count(needs.disk / GIB),
        "random reads/s, peak": count(needs.reads(node)),
        "bytes of WAL a registration": count(needs.wal_each),
        "WAL MB/s, average": count(needs.wal_average / MB),
        "WAL MB/s, peak": count(needs.wal_peak / MB),
        "max_wal_size, GiB": count(needs.wal_between / GIB),
        "WAL archive, GB a day": count(needs.wal_average * DAY / 1e9),
        "to each standby, Mbit/s, peak": count(needs.wal_peak * 8 / MB),
        "standby's replay, cores of 1": count(needs.replay_cores),
        "written back, MB/s, peak": count(needs.written_back / MB),
        "dead rows a day, millions": count(needs.dead / 1e6),
        "vacuums a day": count(needs.vacuums),
        "hours of a vacuum": count(needs.vacuum_hours),
        "days to 200 million xids": count(needs.days_to_freeze),
        "hours to restore": count(needs.restore_hours(node)),
        "fails first": f"{first} {count(uses[first])}",
        "way": way(needs, node, load.largest),
    }


def of_each(costs: Costs) -> list[list[str]]:
    """Return the lines of what one registration costs, or one other call."""
    lines = [["", "CPU, alone", "in 8", "in 64", "WAL", "pages", "images"]]
    for kind, cost in [*costs["registrations"].items(), *costs["calls"].items()]:
        cpu, images = cost["cpu_us"], cost["images"].values()
        by_size = cpu if isinstance(cpu, dict) else {"1": cpu}
        lines.append(
            [
                kind,
                *(count(by_size[size]) if size in by_size else "" for size in ("1", "8", "64")),
                count(cost["wal_bytes"]),
                f"{sum(number for number, _ in images):.1f}",
                count(sum(number * size for number, size in images)),
            ]
        )
    return lines


def of_rows(costs: Costs) -> list[list[str]]:
    """Return the lines of what a row takes in its table and in each index."""
    found = [each.items() for each in (size["bytes"] for size in costs["sizes"].values())]
    return [[name, count(size)] for some in found for name, size in some]


def table(lines: Sequence[Sequence[str]]) -> str:
    """Return lines of cells below each other: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = []
    for first, *cells in lines:
        right = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        shown.append("  ".join([first.ljust(widths[0]), *right]))
    return "\n".join(shown)
