"""`make bench-plots`: the figures of the last `make bench` and `make bench-growth` as SVG."""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "push-token-registry"  # the same figures, the same bytes

from matplotlib import pyplot as plt  # noqa: E402 (the backend comes first)

FOLDER = Path(__file__).parent
NAMES = {
    "service": "service",
    "nginx": "service behind nginx",
    "bare": "bare WSGI, gthread",
    "fastify": "Fastify + node-postgres",
    "fastapi": "FastAPI + asyncpg",
}
PANELS = {
    "per_second": "registrations/s",
    "p50_ms": "p50, ms",
    "p99_ms": "p99, ms",
    "cpu_service": "CPU s of the service per 1,000",
    "cpu_postgresql": "CPU s of PostgreSQL per 1,000",
    "wal_bytes": "bytes of WAL a registration",
}
CONNECTIONS = [1, 16, 64, 256]


def draw_registrations(figures: dict[str, Any]) -> None:
    """Draw each figure over the number of connections, a line a target."""
    figures = figures["figures"]
    _, rows = plt.subplots(2, 3, figsize=(12, 6.5))
    for axes, (key, what) in zip(rows.flat, PANELS.items(), strict=True):
        for name, label in NAMES.items():
            points = {c: figures.get(f"{name} {c}") for c in CONNECTIONS}
            found = {c: figure[key] for c, figure in points.items() if figure}
            if found:
                axes.plot(list(found), list(found.values()), "o-", label=label)
        if key == "per_second":
            if "pgbench" in figures:
                axes.axhline(figures["pgbench"][key], linestyle=":", label="pgbench, 16 clients")
            axes.legend(fontsize="small")
        axes.set(xlabel="connections", ylabel=what, xscale="log", ylim=0)
        axes.set_xticks(CONNECTIONS, [str(c) for c in CONNECTIONS])
        axes.minorticks_off()
    save("registrations")


def draw_growth(figures: dict[str, Any]) -> None:
    """Draw requests/s and the share of HOT updates over the number of rows."""
    _, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5))
    rows = [int(text) for text in figures]
    for name in next(iter(figures.values())):
        of_share = [at_size[name] for at_size in figures.values()]
        left.plot(rows, [one["per_second"] for one in of_share], "o-", label=name)
        if "hot" in of_share[0]:
            right.plot(rows, [one["hot"] for one in of_share], "o-", label=name)
    left.set(xlabel="rows", ylabel="registrations/s, 64 connections", xscale="log", ylim=0)
    right.set(xlabel="rows", ylabel="share of updates that are HOT", xscale="log", ylim=(0, 1.05))
    left.legend()
    right.legend()
    save("growth")


def save(name: str) -> None:
    """Write the figure."""
    plt.tight_layout()
    plt.savefig(FOLDER / f"{name}.svg", metadata={"Date": None})


def main() -> None:
    """Draw what was measured."""
    for name, draw in {"results": draw_registrations, "growth": draw_growth}.items():
        path = FOLDER / f"{name}.json"
        if path.exists():
            draw(json.loads(path.read_text()))


if __name__ == "__main__":
    main()
