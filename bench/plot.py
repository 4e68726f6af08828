"""`make bench-plots`: what the measurements stored, drawn."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "push tokens"  # the same figures give the same file

from matplotlib import pyplot as plt  # noqa: E402 (after the choice of the backend)

HERE = Path(__file__).parent
NAMES = {
    "service": "this service",
    "nginx": "this service behind nginx",
    "bare gevent": "bare WSGI, gevent",
    "bare gthread": "bare WSGI, gthread",
}


def connections() -> None:
    """Draw requests/s over the number of connections."""
    figures = json.loads((HERE / "results.json").read_text())
    _, axes = plt.subplots(figsize=(7, 4))
    for name, label in NAMES.items():
        points = {
            int(key.rpartition(" ")[2]): figure["per_second"]
            for key, figure in figures.items()
            if key.rpartition(" ")[0] == name
        }
        axes.plot(points.keys(), points.values(), marker="o", label=label)
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("connections")
    axes.set_ylabel("registrations a second")
    axes.legend()
    plt.savefig(HERE / "connections.svg", metadata={"Date": None})


def growth() -> None:
    """Draw requests/s over the number of rows."""
    figures = json.loads((HERE / "growth.json").read_text())
    _, axes = plt.subplots(figsize=(7, 4))
    for name in next(iter(figures.values())):
        points = {int(rows): figure[name]["per_second"] for rows, figure in figures.items()}
        axes.plot(points.keys(), points.values(), marker="o", label=name)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("rows in push_tokens")
    axes.set_ylabel("registrations a second")
    axes.legend()
    plt.savefig(HERE / "growth.svg", metadata={"Date": None})


if __name__ == "__main__":
    connections()
    growth()
