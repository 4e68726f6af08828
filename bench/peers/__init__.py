"""What the service is compared with: the same registration, written by hand elsewhere.

Each runs two processes, checks the same types and lengths, runs statement.sql once a request and
answers the same body. None knows devices, logs requests or counts anything.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.config import ROOT
from app.database import embedded
from bench import rig
from tests.support.live import free_port

FOLDER = Path(__file__).parent
STATEMENT = FOLDER / "statement.sql"
INSTALLED = ROOT / "instance" / "bench-peers"
PGBENCH_CLIENTS = 16

Address = tuple[str, int]


@contextmanager
def bare(url: str, threads: int) -> Iterator[Address]:
    """Run the bare WSGI callable under gunicorn's gthread; give its address and process id."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "-k", "gthread", "--threads", str(threads)]
    command += ["-w", str(rig.WORKERS), "-b", f"127.0.0.1:{port}", "--no-control-socket"]
    # As the service has it: gunicorn does not look each client up.
    command += ["--forwarded-allow-ips", "*", "--log-level", "warning", "bench.peers.bare:app"]
    with rig.process(command, port, DATABASE_URL=url, POOL=str(threads)) as pid:
        yield f"http://127.0.0.1:{port}", pid


def install_fastify() -> None:
    """Install what package-lock.json names, beside a copy of the server."""
    folder = INSTALLED / "fastify"
    shutil.copytree(FOLDER / "fastify", folder, dirs_exist_ok=True)
    subprocess.run(["npm", "ci", "--ignore-scripts", "--silent"], cwd=folder, check=True)


@contextmanager
def fastify(url: str, pool: int) -> Iterator[Address]:
    """Run Fastify with node-postgres; give its address and process id."""
    port = free_port()
    settings = {"DATABASE_URL": url, "PORT": str(port), "POOL": str(pool)}
    settings |= {"STATEMENT": str(STATEMENT), "NODE_ENV": "production"}
    with rig.process(["node", "server.js"], port, INSTALLED / "fastify", **settings) as pid:
        yield f"http://127.0.0.1:{port}", pid


def install_fastapi() -> None:
    """Install what requirements.txt names into a virtual environment of its own."""
    folder = INSTALLED / "fastapi"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--require-hashes"]
    pip += ["--only-binary=:all:", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", str(FOLDER / "fastapi" / "requirements.txt")], check=True)


@contextmanager
def fastapi(url: str, pool: int) -> Iterator[Address]:
    """Run FastAPI with asyncpg under uvicorn; give its address and process id."""
    port = free_port()
    command = [str(INSTALLED / "fastapi" / "bin" / "python"), "-m", "uvicorn", "server:app"]
    command += ["--app-dir", str(FOLDER / "fastapi"), "--port", str(port), "--no-access-log"]
    command += ["--workers", str(rig.WORKERS), "--log-level", "warning"]
    command += ["--loop", "uvloop", "--http", "httptools"]
    settings = {"DATABASE_URL": url, "POOL": str(pool), "STATEMENT": str(STATEMENT)}
    with rig.process(command, port, **settings) as pid:
        yield f"http://127.0.0.1:{port}", pid


@dataclass(frozen=True)
class Peer:
    """One to compare with, and what each of its two processes may be given of something."""

    name: str
    start: Callable[[str, int], AbstractContextManager[Address]]
    what: str
    settings: tuple[int, ...]
    needs: tuple[str, ...] = ()
    install: Callable[[], None] = lambda: None

    def missing(self) -> str | None:
        """Return what this machine lacks to run it."""
        return next((program for program in self.needs if not shutil.which(program)), None)


PEERS = (
    Peer("bare", bare, "threads", (2, 4, 8, 16, 32)),
    Peer("fastify", fastify, "connections", (4, 8, 16), ("node", "npm"), install_fastify),
    Peer("fastapi", fastapi, "connections", (4, 8, 16), (), install_fastapi),
)


def pgbench_program() -> str | None:
    """Return pgbench's path, if it is there."""
    return shutil.which("pgbench", path=str(embedded.binaries())) or shutil.which("pgbench")


def pgbench(program: str, url: str, rows: int, seconds: float, folder: Path) -> dict[str, float]:
    """Run the bare statement by pgbench, half new and half known push tokens."""
    parts = [
        f"encode(sha256(convert_to('{part} ' || :number, 'UTF8')), 'hex')" for part in range(3)
    ]
    # A colon would begin the name of a variable.
    gcm = f"overlay(left({' || '.join(parts)}, 163) placing chr(58) || 'APA91b' from 23)"
    values = {
        "1": "sha256(convert_to(lpad((:user)::text, 43, '0'), 'UTF8'))",
        "2": "'user' || :user",
        "3": "left(md5(random()::text), 17)",
        "4": "'chat.example'",
        "5": f"CASE WHEN :kind = 1 THEN {parts[0]} ELSE {gcm} END",
        "6": "CASE WHEN :kind = 1 THEN 'apn' ELSE 'gcm' END",
    }
    lines = STATEMENT.read_text().splitlines()
    statement = " ".join(line for line in lines if not line.startswith("--"))
    statement = re.sub(r"\$(\d)", lambda match: values[match[1]], statement)
    script = folder / "pgbench.sql"
    script.write_text(
        f"\\set known random(1, {rows - 1})\n\\set new random(1000000000, 2000000000)\n"
        "\\set number case when random(0, 1) = 1 then :known else :new end\n"
        "\\set kind :number % 2\n\\set user :number % 10000\n"
        f"{statement};\n"
    )
    command = [program, "-n", "-M", "prepared", "-f", str(script)]
    command += [f"-c{PGBENCH_CLIENTS}", "-j1", f"-T{int(seconds)}", url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (tps,) = re.findall(r"tps = ([\d.]+)", done.stdout)
    return {"per_second": float(tps)}
