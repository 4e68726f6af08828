"""What a load is, what a node has, what the load needs, and which way that leads."""

import math
from dataclasses import dataclass

DAY = 86_400
BUSY = 0.5  # of its cores a node may use at the peak: the rest is for vacuum, standbys and bursts
CACHED = 0.8  # of the memory is left for tables and indexes
LONG_VACUUM = 1  # hours from which on partitions pay
SPREAD = 4  # times the CPU, on Citus: 0.24 to 0.31 of the registrations/s on the same cores


@dataclass(frozen=True)
class Load:
    """What the devices do; how often is a day and device, on average."""

    devices: float
    refreshes: float
    new: float
    rotations: float
    sign_ins: float
    lookups: float  # users
    users_a_lookup: float
    voip: float  # share of the devices
    peak: float  # times the average
    group: float  # registrations in one statement
    checkpoint: float  # seconds between two
    largest: float  # share of the largest tenant

    def kinds(self) -> dict[str, float]:
        """Return the registrations a second, on average, by kind."""
        each = {
            "refresh": self.refreshes * (1 - self.voip),
            "refresh with voip": self.refreshes * self.voip,
            "new device": self.new * (1 - self.voip),
            "new device with voip": self.new * self.voip,
            "rotation": self.rotations,
            "new session": self.sign_ins,
        }
        return {kind: often * self.devices / DAY for kind, often in each.items()}

    def looked_up(self) -> float:
        """Return the users that are looked up a second, on average."""
        return self.lookups * self.devices / DAY

    def sessions(self) -> float:
        """Return how many sessions begin a second, on average; as many end."""
        return (self.new + self.sign_ins) * self.devices / DAY


@dataclass(frozen=True)
class Node:
    """What a node has: cores, bytes, bytes a second, reads a second."""

    cores: float
    memory: float
    disk: float
    wal: float
    reads: float
    restore: float
    restore_hours: float
    bigger: float


@dataclass(frozen=True)
class Needs:
    """What a load needs; bytes, and all that is by the second at the peak unless it says else."""

    average: float
    peak: float
    lookups: float
    service_cores: float
    cores: float
    lookup_cores: float
    tables: float
    indexes: float
    disk: float
    touched: float
    wal_average: float
    wal_peak: float
    wal_between: float
    replay_cores: float
    written_back: float
    dead: float
    vacuums: float
    vacuum_hours: float
    days_to_freeze: float

    @property
    def wal_each(self) -> float:
        """Return the bytes of WAL for each registration, on average."""
        return self.wal_average / self.average if self.average else 0

    def cached(self, node: Node) -> float:
        """Return the share of tables and indexes that the node's memory holds; may be over 1."""
        return node.memory * CACHED / (self.tables + self.indexes)

    def reads(self, node: Node) -> float:
        """Return the pages that the node has to read from the disk."""
        return self.touched * max(0, 1 - self.cached(node))

    def restore_hours(self, node: Node) -> float:
        """Return how long the files take to come back from a backup."""
        return (self.tables + self.indexes) / node.restore / 3600

    def uses(self, node: Node) -> dict[str, float]:
        """Return how many such nodes each resource needs: what is over 1 fails.

        So many nodes have so many times the memory, too, and all in memory needs no reads.
        """
        cached = self.cached(node)
        return {
            "CPU": self.cores / node.cores / BUSY,
            "disk": self.disk / node.disk,
            "reads": min(self.touched / (node.reads + self.touched * cached), 1 / cached),
            "WAL": self.wal_peak / node.wal,
            "replay": self.replay_cores / BUSY,
            "restore": self.restore_hours(node) / node.restore_hours,
        }


def way(needs: Needs, node: Node, largest: float) -> str:
    """Return what to do: the first that suffices, in the order of docs/scale.md.

    `largest` is the share of the largest tenant, 1 where there is only one.
    """
    uses = needs.uses(node)
    reading = needs.lookup_cores / node.cores / BUSY
    writing = max({**uses, "CPU": uses["CPU"] - reading}.values())
    if writing > node.bigger or uses["replay"] > 1:
        spread = {**uses, "CPU": uses["CPU"] * SPREAD}
        kind = "tenants" if largest * max(spread.values()) <= 1 else "spread"
        return f"{math.ceil(max(spread.values()))} nodes, {kind}"
    size = max(1, math.ceil(writing * 10) / 10)
    parts = ["one node" if size == 1 else f"node x {size:g}"]
    if uses["CPU"] > size:
        parts.append(f"replicas: {math.ceil(reading / size)}")
    if needs.vacuum_hours > LONG_VACUUM:
        parts.append("partitions")
    return ", ".join(parts)
