"""What the service promises beside its peers, and what a run measured."""

from collections.abc import Iterator
from typing import NamedTuple

Figures = dict[str, dict[str, float]]

SERVICE = ("service", "nginx", "without ids", "with ids")  # all that the service answered
SERVED = "requests/s"
# Requests/s of the service to a peer's, by the number of connections.
RATIOS = {
    "fastify": {16: 1.0, 64: 1.4, 256: 1.4},
    "bare": {16: 1.9, 64: 2.6, 256: 2.6},
    "fastapi": {16: 1.4, 64: 2.0},
}
# Figures of what names its device, to those of what does not.
OF_IDS = {
    "per_second": (SERVED, ">=", 0.85),
    "p99_ms": ("p99", "<=", 1.25),
    "cpu_postgresql": ("CPU of PostgreSQL", "<=", 1.5),
}


class Bound(NamedTuple):
    """One promise; without a value where what it needs was left out."""

    text: str
    value: float | None
    sign: str
    limit: float

    @property
    def verdict(self) -> str:
        """Say if it was kept."""
        if self.value is None:
            return "left out"
        kept = self.value >= self.limit if self.sign == ">=" else self.value <= self.limit
        return "met" if kept else "MISSED"

    def __str__(self) -> str:
        """Return its line of the table."""
        value = "" if self.value is None else f"{self.value:.2f}"
        return f"{self.verdict:8}  {value:>7}  {self.sign} {self.limit:<5g}  {self.text}"


def bounds(medians: Figures) -> list[Bound]:
    """Return every bound with what was measured."""

    def ratio(key: str, over: str, under: str, under_key: str = "") -> float | None:
        """Return one target's figure to another's; none where one of them was left out."""
        try:
            return medians[over][key] / medians[under][under_key or key]
        except KeyError:
            return None

    def to_peers() -> Iterator[Bound]:
        for peer, limits in RATIOS.items():
            for connections, limit in limits.items():
                value = ratio("per_second", f"service {connections}", f"{peer} {connections}")
                yield Bound(f"{SERVED} to {peer}, {connections} connections", value, ">=", limit)

    def of_ids() -> Iterator[Bound]:
        for connections in (16, 64):
            found = medians.get(f"with ids {connections}", {})
            for key, (text, *limit) in OF_IDS.items():
                where = f"{text} with ids to without, {connections} connections"
                yield Bound(where, found.get(f"{key}_to_without"), *limit)

    many = "service 64", "bare 64"
    mine = [one for name, one in medians.items() if name.rpartition(" ")[0] in SERVICE]
    return [
        *to_peers(),
        Bound(f"{SERVED} to pgbench, 64", ratio("per_second", many[0], "pgbench"), ">=", 0.45),
        Bound("p50 to bare, 1 connection", ratio("p50_ms", "service 1", "bare 1"), "<=", 1.5),
        Bound("CPU of the service to bare, 64", ratio("cpu_service", *many), "<=", 0.5),
        Bound("CPU of PostgreSQL to bare, 64", ratio("cpu_postgresql", *many), "<=", 0.4),
        Bound(
            "p99 at 64 connections to p50 of a lone request",
            ratio("p99_ms", many[0], "service 1", "p50_ms"),
            "<=",
            22,
        ),
        Bound(
            "MiB (PSS) of two workers, 256 connections",
            medians.get("service 256", {}).get("pss_mib"),
            "<=",
            180,
        ),
        Bound("not 2xx, or broken", sum(one["not_2xx"] + one["broken"] for one in mine), "<=", 0),
        *of_ids(),
    ]
