"""`make bench-memory`: what two workers hold of memory over a million registrations."""

import argparse
import sys
import tempfile
from pathlib import Path

import psycopg

from app.config import ROOT
from app.database import embedded
from bench import rig

CONNECTIONS = 64
SLICE = 20  # seconds between two looks
MOST_GROWTH = 0.05  # of what is held after the first tenth, when every cache is full
MOST = 180  # MiB of both workers


def main() -> int:
    """Load, print what is held after each slice; return 1 when it grows or is too much."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    args = parser.parse_args()
    server = rig.start_server(ROOT / "instance" / "bench")
    url = server.dsn(embedded.DATABASE)
    done, warm, held = 0, 0.0, 0.0
    with (
        tempfile.TemporaryDirectory() as folder,
        psycopg.connect(url, autocommit=True) as connection,
        rig.service(url) as (address, pid),
    ):
        known = Path(folder) / "known.txt"
        rig.write_known(known, 10_000)
        rig.fill(connection, 10_000)
        while done < args.requests:
            done += int(rig.wrk(address, known, CONNECTIONS, SLICE, 0.5)["requests"])
            held = rig.pss_mib(pid)
            if not warm and done >= args.requests / 10:
                warm = held
            print(f"{done:>10,} requests  {held:6.1f} MiB (PSS)", flush=True)
    server.release()
    return 1 if held > min(warm * (1 + MOST_GROWTH), MOST) else 0


if __name__ == "__main__":
    sys.exit(main())
