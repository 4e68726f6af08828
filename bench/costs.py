"""`make bench-costs`: what a registration costs in CPU, WAL and bytes, for docs/scale.md.

The figures are for one registration and none is a rate, so that a busy machine spoils them less.
The statements are the service's own, on rows drawn at random (bench/devices.py).
"""

import argparse
import http.client
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
from sqlalchemy import text

from app import create_app
from app.models import UserSession, db
from app.registry import push_tokens, sessions
from bench import rig
from bench.devices import KINDS, Sample, fill
from bench.lookup import issue_key
from bench.meter import SETTINGS, Meter, Used, cpu_us, put_first
from bench.upkeep import replay, sizes, vacuum
from tests.support.clusters import Cluster

ROUNDS = 7
GROUPS = {1: 400, 8: 120, 64: 20}  # statements by the registrations in one


def registrations(meter: Meter, devices: int) -> dict[str, Any]:
    """Return by kind the CPU of a registration by its group's size, its WAL and its images."""
    sample, figures = Sample(meter, devices), {}
    for kind in KINDS:
        meter.register(sample.groups(meter, kind, 8, 20))  # a warm-up
        groups = {
            size: sample.groups(meter, kind, size, number) for size, number in GROUPS.items()
        }
        more = [sample.groups(meter, kind, 8, 50) for _ in range(2)]
        meter.fresh_pages(full_page_writes="on", wal_compression="off")
        used = {size: meter.register(members) for size, members in groups.items()}
        meter.fresh_pages(wal_compression="pglz")
        compressed = meter.register(more.pop())
        meter.fresh_pages(full_page_writes="off", wal_compression="off")
        figures[kind] = {
            "cpu_us": {size: one.cpu_us() for size, one in used.items()},
            "wal_bytes": meter.register(more.pop()).wal_bytes(),
            "images": used[8].images_each(),
            "compressed": {
                "cpu_us": compressed.cpu_us(),
                "images": compressed.images_each(),
            },
        }
        print(kind, json.dumps(figures[kind]), flush=True)
    return figures


def works(meter: Meter) -> dict[str, tuple[int, list[Any], Callable[[Any], Any]]]:
    """Return by name what else is called, for how many each time, with what, each of it once."""

    def draw(column: str, number: int) -> list[Any]:
        query = f"""SELECT {column} FROM push_tokens TABLESAMPLE SYSTEM (5)
            WHERE type = 'gcm' ORDER BY random() LIMIT {number}"""
        return [value for (value,) in meter.watch.execute(query).fetchall()]

    users, ends = draw("user_id", 7500), draw("session_hash", 900)
    put = [[{"token_hash": secrets.token_bytes(32), "user_id": user}] for user in users[:900]]
    many = [users[n : n + 50] for n in range(0, 7500, 50)]
    return {
        "lookup of 1": (1, [[user] for user in users[:900]], push_tokens.look_up),
        "lookup of 50": (50, many, push_tokens.look_up),
        "session announced": (1, put, lambda one: sessions.put(one, 90)),
        "sign-out": (1, ends, lambda one: sessions.end(UserSession.token_hash == one)),
    }


def calls(meter: Meter, url: str) -> dict[str, Any]:
    """Return what PostgreSQL uses for the other calls: for each user or session of them."""
    os.environ["DATABASE_URL"] = url
    figures: dict[str, Any] = {}

    def run(size: int, items: list[Any], work: Callable[[Any], Any]) -> Used:
        pid = db.session.scalar(text("SELECT pg_backend_pid()"))
        db.session.commit()
        put_first(pid)
        used, start = Used(len(items) * size), meter.here()
        for one in items:
            before = cpu_us(pid)
            work(one)
            db.session.commit()
            used.cpu.append((cpu_us(pid) - before) / size)
        return meter.written(used, start)

    with create_app().app_context():
        for name, (size, items, work) in works(meter).items():
            part = len(items) // 3
            run(size, items[:part], work)  # a warm-up
            meter.fresh_pages(full_page_writes="on")
            used = run(size, items[part : 2 * part], work)
            meter.fresh_pages(full_page_writes="off")
            records = run(size, items[2 * part :], work).wal_bytes()
            figures[name] = {
                "cpu_us": used.cpu_us(),
                "wal_bytes": records,
                "images": used.images_each(),
            }
            print(name, json.dumps(figures[name]), flush=True)
    return figures


def service(cluster: Cluster) -> dict[str, float]:
    """Return the CPU of the service: of a registration as `make bench` stored it, of lookups.

    Of lookups by user, the least of some rounds: other work only ever adds to it.
    """
    stored = json.loads(Path(__file__).with_name("results.json").read_text())["figures"]
    figures = {"registration": round(stored["with ids 64"]["cpu_service"] * 1000, 1)}
    with psycopg.connect(cluster.url("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE load")
    url = cluster.url("load")
    rig.migrate(url)
    with psycopg.connect(url, autocommit=True) as connection, rig.service(url) as (address, pid):
        rig.fill(connection, 10_000)
        headers = {"Authorization": f"Bearer {issue_key(url)}", "Content-Type": "application/json"}
        client = http.client.HTTPConnection(urlsplit(address).netloc)
        for size, number in ((1, 500), (50, 100)):
            rounds = []
            for _ in range(ROUNDS):
                before = rig.cpu_seconds(pid)
                for n in range(number):
                    users = [f"user{(n * size + i) % 10_000}" for i in range(size)]
                    asked = json.dumps({"userIds": users})
                    client.request("POST", "/api/v1/push.tokens.lookup", asked, headers)
                    assert client.getresponse().read().count(b'"_id"') == size
                rounds.append((rig.cpu_seconds(pid) - before) / number / size * 1e6)
            figures[f"lookup of {size}"] = round(min(rounds), 1)
    print("service", json.dumps(figures), flush=True)
    return figures


def measured(devices: int, whole: bool) -> Iterator[tuple[str, Any]]:
    """Measure a table of so many devices; yield the figures by name."""
    cluster = Cluster()
    try:
        cluster.create()
        cluster.start(*SETTINGS)
        cluster.wait_until_up()
        cluster.create_database()
        url = cluster.url()
        rig.migrate(url)
        meter = Meter(cluster, url)
        clock = time.monotonic()
        fill(meter.work, devices)
        print(f"{devices:,} devices filled in {time.monotonic() - clock:.0f} s", flush=True)
        yield "sizes", sizes(meter)
        yield "registrations", registrations(meter, devices)
        yield "calls", calls(meter, url)
        if whole:
            yield "replay", replay(cluster, meter, devices)
            yield "service", service(cluster)
        yield "vacuum", vacuum(meter)
        meter.close()
    finally:
        cluster.remove()


def main() -> None:
    """Measure each size, print the figures, and store them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("costs.json"))
    args = parser.parse_args()
    figures: dict[int, dict[str, Any]] = {}
    for devices in args.devices:
        whole = devices == min(args.devices)
        figures[devices] = dict(measured(devices, whole))
        args.output.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
