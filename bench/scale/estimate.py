"""The arithmetic: from what one registration costs to what a load needs."""

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from bench.scale.needs import DAY, Load, Needs

Costs = Mapping[str, Any]  # bench/costs.json, of one size

PAGE = 8192
LOOKUPS = (1, 50)  # users of one call, as measured
ROOM = 1.5  # of the data: dead rows, half-full pages, and the copy of an index that is rebuilt
SHARED_PAGES = 2  # leaves of indexes that a registration reads and does not change
DEAD = 0.2  # of the rows, at which autovacuum comes (autovacuum_vacuum_scale_factor)
# Autovacuum's default costs: 2 for a page read and 20 for one changed, then 2 ms for each 200.
VACUUM_PAGE = (2 + 20) / 200 * 0.002  # seconds
FREEZE = 200e6  # transactions, autovacuum_freeze_max_age


def cpu_of(measured: Mapping[Any, float], group: float) -> float:
    """Return the CPU of a registration in a group, in seconds: a share of the statement's added.

    What is measured is for groups of some sizes; between two of them it falls with 1 / size.
    """
    points = sorted((1 / int(size), cost) for size, cost in measured.items())
    share = min(max(1 / group, points[0][0]), points[-1][0])
    pairs = itertools.pairwise(points)
    (left, low), (right, high) = next(pair for pair in pairs if share <= pair[1][0])
    return (low + (high - low) * (share - left) / (right - left)) / 1e6


def rates(load: Load) -> dict[str, float]:
    """Return how often a second everything happens that writes, on average."""
    return {
        **load.kinds(),
        "session announced": load.sessions(),
        "sign-out": load.sessions(),
    }


def sizes_of(load: Load, costs: Costs) -> dict[str, float]:
    """Return the bytes of each table and index."""
    stored = {"push_tokens": load.devices * (1 + load.voip), "user_sessions": load.devices}
    return {
        relation: rows * each
        for table, rows in stored.items()
        for relation, each in costs["sizes"][table]["bytes"].items()
    }


def wal(load: Load, times: float, costs: Costs) -> tuple[float, float]:
    """Return the bytes of WAL and the pages written back, a second, at so many times the average.

    A page has one image between two checkpoints, however often it is changed. Of `there` pages,
    drawn at random so often, so many are drawn at all: there * (1 - exp(-often / there)).
    """
    records, changed, size = 0.0, defaultdict[str, float](float), dict[str, float]()
    for kind, rate in rates(load).items():
        cost = costs["registrations"].get(kind) or costs["calls"][kind]
        records += rate * times * cost["wal_bytes"]
        for relation, (number, each) in cost["images"].items():
            changed[relation] += rate * times * number
            size[relation] = max(each, size.get(relation, 0))
    images = pages = 0.0
    sizes = sizes_of(load, costs)
    for relation, often in changed.items():
        there = max(sizes[relation] / PAGE, 1)
        drawn = there * -math.expm1(-often * load.checkpoint / there) / load.checkpoint
        images += drawn * size[relation]
        pages += drawn
    return records + images, pages


def cores(load: Load, costs: Costs) -> tuple[float, float]:
    """Return the cores of PostgreSQL for all that writes and for lookups, on average."""
    writing = 0.0
    for kind, rate in rates(load).items():
        if kind in costs["registrations"]:
            writing += rate * cpu_of(costs["registrations"][kind]["cpu_us"], load.group)
        else:
            writing += rate * costs["calls"][kind]["cpu_us"] / 1e6
    looked_up = {size: costs["calls"][f"lookup of {size}"]["cpu_us"] for size in LOOKUPS}
    return writing, load.looked_up() * cpu_of(looked_up, load.users_a_lookup)


def service_cores(load: Load, costs: Costs) -> float:
    """Return the cores of the service, on average."""
    looked_up = {size: costs["service"][f"lookup of {size}"] for size in LOOKUPS}
    registering = sum(load.kinds().values()) * costs["service"]["registration"] / 1e6
    return float(registering + load.looked_up() * cpu_of(looked_up, load.users_a_lookup))


def touched(load: Load, costs: Costs) -> float:
    """Return the pages a second, on average, that are likely to be another one each time."""
    pages = {
        kind: SHARED_PAGES + sum(number for number, _ in cost["images"].values())
        for kind, cost in costs["registrations"].items()
    }
    return float(sum(rate * pages[kind] for kind, rate in load.kinds().items()))


def needs_of(load: Load, costs: Costs) -> Needs:
    """Return what a load needs, on one node or on all together."""
    sizes = sizes_of(load, costs)
    tables, everything = sizes["push_tokens"] + sizes["user_sessions"], sum(sizes.values())
    registrations, peak = sum(load.kinds().values()), load.peak
    writing, looking_up = cores(load, costs)
    at_peak, written_back = wal(load, peak, costs)
    # WAL is kept while a checkpoint is spread over the time until the next one.
    wal_between = 2 * at_peak * load.checkpoint
    replay = costs["replay"]["refresh"]
    replaying = registrations * peak * replay["cpu_us"] + written_back * replay["image_us"]
    dead = load.devices * (load.rotations + load.sign_ins + load.new)
    pages = sum(sizes[name] / PAGE for name in costs["sizes"]["push_tokens"]["bytes"])
    transactions = (registrations / load.group + 2 * load.sessions()) * DAY
    return Needs(
        average=registrations,
        peak=registrations * peak,
        lookups=load.looked_up() * peak,
        service_cores=service_cores(load, costs) * peak,
        cores=(writing + looking_up) * peak,
        lookup_cores=looking_up * peak,
        tables=tables,
        indexes=everything - tables,
        disk=everything * ROOM + wal_between,
        touched=touched(load, costs) * peak,
        wal_average=wal(load, 1, costs)[0],
        wal_peak=at_peak,
        wal_between=wal_between,
        replay_cores=replaying / 1e6,
        written_back=written_back * PAGE,
        dead=dead,
        vacuums=dead / (DEAD * load.devices * (1 + load.voip)),
        vacuum_hours=pages * VACUUM_PAGE / 3600,
        days_to_freeze=FREEZE / transactions if transactions else math.inf,
    )
