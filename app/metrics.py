"""The metrics of /metrics, over all workers of an instance.

Workers write their counts into files of one folder (PROMETHEUS_MULTIPROC_DIR, which gunicorn's
configuration makes), and the worker that answers adds them up. No label holds a caller's data: no
user, no push token, and a route's pattern instead of a path.
"""

import os
import sys
from collections import Counter as Count
from collections.abc import Iterable, Iterator
from contextlib import nullcontext

from sqlalchemy import Pool, event

from app import log
from app.config import without_setting

IS_WORKER = "gunicorn.arbiter" in sys.modules

# prometheus_client looks for the folder when it is imported. A command may have the setting in its
# environment too, but would leave files there that are never removed.
with nullcontext() if IS_WORKER else without_setting("prometheus_multiproc_dir"):
    from prometheus_client import (
        CONTENT_TYPE_LATEST,
        REGISTRY,
        CollectorRegistry,
        Counter,
        Gauge,
        Histogram,
        generate_latest,
        values,
    )
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.multiprocess import MultiProcessCollector

    from app import processes, shared_counts

shared_counts.use()

CONTENT_TYPE = CONTENT_TYPE_LATEST

REQUESTS = Histogram(
    "push_registry_request_duration_seconds",
    "Requests by route, method and status, and how long they took.",
    ["route", "method", "status"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
REGISTRATIONS = Counter(
    "push_registry_registrations",
    "Push tokens registered: created, refreshed, moved to another user, or rotated: in place of"
    " the device's former one.",
    ["outcome"],
)
REMOVED = Counter(
    "push_registry_registrations_removed",
    "Registrations removed: by their app (deleted), with their session (logout, revoked),"
    " or by what a push provider said (feedback).",
    ["cause"],
)
OUTCOMES = ("created", "refreshed", "moved", "rotated")
CAUSES = ("deleted", "logout", "revoked", "feedback")
ROCKETCHAT_CHECKS = Histogram(
    "push_registry_rocketchat_check_duration_seconds",
    "Checks of credentials by Rocket.Chat, by verdict (confirmed, denied, unsure); refused: not"
    " asked, as too many were denied lately.",
    ["verdict"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
GROUPS = Histogram(
    "push_registry_group_size",
    "Registrations written by one statement.",
    buckets=(1, 2, 5, 10, 20, 50, 100),
)
READS = Counter(
    "push_registry_reads",
    "Lookups and pages of the list, where DATABASE_READ_URL is set, by the server that answered:"
    " replica, or primary while that was away or lagged.",
    ["server"],
)
WAITING = Gauge(
    "push_registry_registrations_waiting",
    "Registrations that waited to be written when a group was last begun.",
    multiprocess_mode="livesum",
)
POOL = Gauge(
    "push_registry_pool_connections_in_use",
    "Connections that requests hold out of the pool.",
    multiprocess_mode="livesum",
)
POOL_SIZE = Gauge(
    "push_registry_pool_connections_limit",
    "Connections that the pools of all workers may open.",
    multiprocess_mode="livesum",
)
BUILD = Gauge(
    "push_registry_build_info",
    "1; the labels say which release answers, and the revision of the database that it needs.",
    ["version", "revision"],
    multiprocess_mode="livemax",
)
DATABASE_ERRORS = Counter(
    "push_registry_database_errors",
    "Errors of PostgreSQL or of the way there, those that a retry cured included.",
    ["error"],
)
WORKERS_STARTED = Counter(
    "push_registry_workers_started",
    "Workers that began to serve; more than there are, some were restarted.",
)
OLDEST_WAIT = Gauge(
    "push_registry_oldest_wait_seconds",
    "How long the request has waited that waits longest for a thread, and so for a connection of"
    " the pool; the longest of all workers.",
    multiprocess_mode="livemax",
)
LOG_LINES_LOST = Counter(
    "push_registry_log_lines_lost",
    "Lines of the log that could not be written, or kept for a reader who does not read.",
)
log.stderr.on_loss = LOG_LINES_LOST.inc


def problems() -> Iterator[tuple[str, str]]:
    """Yield each sink that does not take what this process writes (log, metrics), and why."""
    if why := log.stderr.problem():
        what = "lines wait, or are lost" if why == log.STOPPED else "lines are lost"
        yield "log", f"{what}: {why}"
    if why := shared_counts.problem():
        yield "metrics", f"this worker counts by itself: {why}"
    elif IS_WORKER and not values.ValueClass._multiprocess:
        yield "metrics", "this worker counts by itself: no folder to share could be made"


class Sinks:
    """What is told of the process that answers: whether log and metrics take what it writes."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauge (prometheus_client's Collector)."""
        name, text = "push_registry_sink_failing", "1: lines of the log, or counts, are not kept."
        gauge = GaugeMetricFamily(name, text, labels=["sink"])
        failing = dict(problems())
        for sink in ("log", "metrics"):
            gauge.add_metric([sink], sink in failing)
        yield gauge


SINKS = Sinks()
PROCESSES = processes.Processes()
for collector in (SINKS, PROCESSES):
    REGISTRY.register(collector)


def count_registrations(outcomes: Iterable[str]) -> None:
    """Count what registrations did, after their commit."""
    for name, number in Count(outcomes).items():
        REGISTRATIONS.labels(name).inc(number)


def count_database_error(error: BaseException) -> None:
    """Count an error by the name of its class, as psycopg calls it (`LockNotAvailable`)."""
    DATABASE_ERRORS.labels(type(error).__name__).inc()


def render(folder: str | None) -> bytes:
    """Return all metrics as text: of the processes that share the folder, else of this one."""
    registry = REGISTRY
    if folder and os.path.isdir(folder):  # nobody removed it
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=folder)
        for collector in (SINKS, PROCESSES):
            registry.register(collector)
    return generate_latest(registry)


def watch(pool: Pool, size: int) -> None:
    """Count which of a pool's `size` connections are in use.

    Counters begin with 0: Prometheus sees no rise in a series' first value.
    """
    for name in OUTCOMES:
        REGISTRATIONS.labels(name)
    for cause in CAUSES:
        REMOVED.labels(cause)
    event.listen(pool, "checkout", lambda *_: POOL.inc())
    event.listen(pool, "checkin", lambda *_: POOL.dec())
    POOL_SIZE.set(size)
