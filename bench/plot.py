"""`make bench-plots`: the figures of the last `make bench` as bench/registrations.svg."""

import json
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "push-token-registry"  # the same figures, the same bytes

from matplotlib import pyplot as plt  # noqa: E402 (the backend comes first)

FOLDER = Path(__file__).parent
NAMES = ["service", "nginx", "bare gevent", "bare gthread"]


def main() -> None:
    """Draw requests per second and p99 over connections, a line a target."""
    figures = json.loads((FOLDER / "results.json").read_text())
    _, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    for name in NAMES:
        points = {
            int(key.rpartition(" ")[2]): figure
            for key, figure in figures.items()
            if key.startswith(f"{name} ")
        }
        label = "service behind nginx" if name == "nginx" else name
        left.plot(list(points), [one["per_second"] for one in points.values()], "o-", label=label)
        right.plot(list(points), [one["p99_ms"] for one in points.values()], "o-", label=label)
    left.axhline(figures["pgbench"]["per_second"], linestyle=":", label="pgbench, 16 clients")
    for axes, what in ((left, "registrations/s"), (right, "p99, ms")):
        axes.set(xlabel="connections", ylabel=what, xscale="log", ylim=0)
        axes.set_xticks([1, 16, 64, 256], ["1", "16", "64", "256"])
        axes.legend()
    plt.tight_layout()
    plt.savefig(FOLDER / "registrations.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
