"""What tables take, and what goes on beside the registrations: vacuum, and a standby's replay."""

import json
import time
from typing import Any

import psycopg

from bench.devices import Sample
from bench.meter import Meter, Used, cpu_us
from tests.support.clusters import Cluster


def sizes(meter: Meter) -> dict[str, Any]:
    """Return the rows of the tables, and the bytes of a row there and in each index."""
    figures = {}
    for table in ("push_tokens", "user_sessions"):
        rows = meter.one(f"SELECT count(*) FROM {table}")
        query = """SELECT indexrelid::regclass::text, pg_relation_size(indexrelid) FROM pg_index
            WHERE indrelid = %s::regclass ORDER BY 1"""
        found = [(table, meter.one("SELECT pg_table_size(%s)", table))]
        found += meter.watch.execute(query, (table,)).fetchall()
        each = {name: round(size / rows, 1) for name, size in found}
        figures[table] = {"rows": rows, "bytes": each}
    print("sizes", json.dumps(figures), flush=True)
    return figures


def vacuum(meter: Meter) -> dict[str, float]:
    """Return what a VACUUM as autovacuum's uses, by row, when a fifth of the rows is dead."""
    meter.fresh_pages(full_page_writes="off")
    meter.watch.execute("VACUUM push_tokens")
    meter.watch.execute(
        "UPDATE push_tokens SET token = left(token, -9) || right(md5(id), 9)"
        " WHERE hashtext(id) % 5 = 0"
    )
    meter.watch.execute("CHECKPOINT")
    pid, rows = meter.watch.info.backend_pid, meter.one("SELECT count(*) FROM push_tokens")
    start, before, clock = meter.here(), cpu_us(pid), time.monotonic()
    meter.watch.execute("VACUUM (PARALLEL 0) push_tokens")
    used, seconds = Used(rows, [(cpu_us(pid) - before) / rows]), time.monotonic() - clock
    meter.written(used, start)
    figures = {"cpu_us": round(used.cpu[0], 3), "wal_bytes": round(used.wal / rows, 1)}
    print("vacuum", json.dumps(figures), f"in {seconds:.0f} s", flush=True)
    return figures


def caught_up(standby: psycopg.Connection, meter: Meter) -> None:
    """Wait until a standby has replayed all that was written."""
    reached, end = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", meter.here()
    while not standby.execute(reached, (end,)).fetchone()[0]:
        time.sleep(0.01)


def replay(cluster: Cluster, meter: Meter, devices: int) -> dict[str, Any]:
    """Return the CPU of a standby's only process that replays, by kind of registration.

    That is of the records of one, and of each image of a page, at full speed: the standby waits
    until all is written, or it would wake up for each group.
    """
    standby, figures = Cluster(), {}
    who = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'"
    try:
        standby.port += 1
        standby.follow(cluster)
        sample = Sample(meter, devices)
        with psycopg.connect(standby.url("postgres"), autocommit=True) as there:
            pid = there.execute(who).fetchone()[0]
            for kind in ("refresh", "new device", "rotation"):
                found = []
                for setting in ("off", "on"):
                    groups = sample.groups(meter, kind, 8, 300)
                    meter.fresh_pages(full_page_writes=setting)
                    caught_up(there, meter)
                    before = cpu_us(pid)
                    there.execute("SELECT pg_wal_replay_pause()")
                    used = meter.register(groups)
                    there.execute("SELECT pg_wal_replay_resume()")
                    caught_up(there, meter)
                    found.append((cpu_us(pid) - before) / used.number)
                images = sum(pages for pages, _ in used.images_each().values())
                of_image = max(found[1] - found[0], 0) / images
                figures[kind] = {"cpu_us": round(found[0], 1), "image_us": round(of_image, 1)}
    finally:
        standby.remove()
    print("replay", json.dumps(figures), flush=True)
    return figures
