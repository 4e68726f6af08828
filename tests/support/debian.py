"""A bare Debian to follow deploy/README.md on: a folder stands for `/`, and nothing is installed.

What cannot be done on any machine is replaced, and only that:

- `apt-get`: the packages are the machine's; one that is missing fails.
- `systemctl`: no systemd is the first process; a program does what the unit files say.
- 443, 8080 and 5432 are free ports; `/etc`, `/opt`, `/run` and `/var` are below the folder.
- `db.example.org` is Debian's PostgreSQL 15 with TLS and Debian's pg_hba.conf, on localhost.
- The certificate is made here; no authority gives one for `push.example.org`.
- Passwords are typed into a pipe, and not at a terminal.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import psycopg

from app.config import ROOT
from app.database import embedded
from tests.support.clusters import Cluster, state
from tests.support.live import free_port
from tests.support.parts import part
from tests.support.proxy import certify, substituted
from tests.support.shell import Shell

PASSWORD = "p@ss/w:rd%20$"  # all that a URI takes for something else
ENCODED = quote(PASSWORD, safe="")
HBA = """
local all postgres peer
local all all peer
host all all 127.0.0.1/32 scram-sha-256
host all all ::1/128 scram-sha-256
"""
FOLDERS = (
    *("opt/push-token-registry", "etc/push-token-registry", "run/push-token-registry"),
    *("etc/systemd/system", "etc/nginx", "etc/logrotate.d", "var/log/nginx"),
    "var/lib/push-token-registry-metrics",
)
# Debian's packages, by a program of each.
APT_GET = """
declare -A programs=([python3-venv]=python3 [nginx]=nginx [postgresql-client]=psql [curl]=curl
    [postgresql]=/usr/lib/postgresql/15/bin/postgres)
shift
for package; do command -v "${programs[$package]:?$package}" >/dev/null || exit 1; done
"""


@contextmanager
def postgresql() -> Iterator[Cluster]:
    """PostgreSQL as Debian's package sets it up, but for its folder, port and certificate."""
    cluster = Cluster(Path(part("/usr/lib/postgresql/15/bin/postgres")).parent)
    cluster.folder.chmod(0o755)
    cluster.port = free_port()
    try:
        cluster.create()
        certify(cluster.folder)
        if not os.geteuid():
            shutil.chown(cluster.folder / "privkey.pem", embedded.UNPRIVILEGED)
        names = {"cert": "fullchain", "key": "privkey"}
        files = [f"ssl_{kind}_file={cluster.folder}/{name}.pem" for kind, name in names.items()]
        cluster.start("listen_addresses=localhost", "ssl=on", *files)
        cluster.wait_until_up()
        with psycopg.connect(cluster.url("postgres")) as connection:
            hba = HBA if not os.geteuid() else HBA.replace("peer", "trust")
            (cluster.data / "pg_hba.conf").write_text(hba)
            connection.execute("SELECT pg_reload_conf()")
        yield cluster
    finally:
        cluster.remove()


class Debian:
    """The host, and its operator with a shell."""

    def __init__(self, root: Path, cluster: Cluster):
        self.root, self.cluster = root, cluster
        self.public, self.internal = free_port(), free_port()
        self.here = {
            "/etc/ssl/certs/ca-certificates.crt": f"{root}/ca.pem",
            **{f"/{name}": f"{root}/{name}" for name in FOLDERS},
            "https://push.example.org": f"https://localhost:{self.public}",
            "PGHOST=db.example.org": "PGHOST=localhost",
            "db.example.org": f"localhost:{cluster.port}",
            "127.0.0.1:8080": f"127.0.0.1:{self.internal}",
        }
        for name in ("bin", "run", "var/log/nginx", "etc/systemd/system", "etc/logrotate.d"):
            (root / name).mkdir(parents=True)
        (root / "var" / "log" / "journal").touch()
        for path in (root, root / "run", root / "var" / "log" / "journal"):
            path.chmod(0o777)
        self._unpack()
        self._configure()
        self._programs()
        self.shell = Shell(root, self._environ(), self.here)

    @classmethod
    @contextmanager
    def fresh(cls, cluster: Cluster) -> Iterator["Debian"]:
        """Make one, and end all that runs there."""
        part("nginx")
        root = Path(tempfile.mkdtemp(prefix="debian-"))
        host = cls(root, cluster)
        try:
            yield host
        finally:
            host.shell.close()
            for path in (root / "run").glob("*.pid"):
                if text := path.read_text():  # `nginx -t` alone leaves an empty one
                    end(int(text))
            shutil.rmtree(root)

    def run(self, block: str, typed: str = "") -> str:
        """Run a block of the document with the passwords in their places."""
        return self.shell.run(block, typed, {":…@": f":{ENCODED}@"})

    def superuser(self, statement: str) -> None:
        """Execute a statement that is no part of the document."""
        command = ["runuser", "-u", "postgres", "--", "psql", "-Xq", "-c", statement]
        environ = self._environ()
        program = shutil.which("runuser", path=environ["PATH"])
        subprocess.run(command, executable=program, env=environ, cwd="/", check=True)

    def certify(self) -> None:
        """Put certificate and key where the document wants them."""
        for name in ("fullchain.pem", "privkey.pem"):
            shutil.copy(self.cluster.folder / name, self.root / "etc/push-token-registry/tls")

    def _unpack(self) -> None:
        """Have the release's files there, with this host's places."""
        release = self.root / "opt" / "push-token-registry"
        subprocess.run([ROOT / ".ci" / "wheel", release / "dist"], check=True)
        shutil.copytree(ROOT / "deploy", release / "deploy")
        site = release / "deploy" / "nginx.conf"
        ports = {
            "listen 443 ssl http2;": f"listen 127.0.0.1:{self.public} ssl http2;",
            "    listen [::]:443 ssl http2;\n": "",
        }
        site.write_text(substituted(site.read_text(), ports))
        for path in [site, *(release / "deploy" / "systemd").iterdir()]:
            path.write_text(self._moved(path.read_text()))

    def _configure(self) -> None:
        """Have what Debian's packages configure, but for the default site on port 80."""
        nginx = self.root / "etc" / "nginx"
        others = shutil.ignore_patterns("sites-*")
        shutil.copytree("/etc/nginx", nginx, ignore=others, ignore_dangling_symlinks=True)
        (nginx / "sites-enabled").mkdir()
        main = self._moved((nginx / "nginx.conf").read_text())
        (nginx / "nginx.conf").write_text(
            substituted(main, {"pid /run/": f"pid {self.root}/run/"})
        )
        shutil.copy("/etc/logrotate.d/nginx", self.root / "etc" / "logrotate.d")
        shutil.copy(self.cluster.folder / "fullchain.pem", self.root / "ca.pem")
        (self.root / "etc" / ".curlrc").write_text("silent\nshow-error\n")  # as on a terminal

    def _moved(self, text: str) -> str:
        for there, here in self.here.items():
            text = text.replace(there, here)
        return text

    def _programs(self) -> None:
        stand_in = ROOT / "tests" / "support" / "systemctl.py"
        environ = f"WALK={self.root} PYTHONPATH={ROOT}"
        programs = {
            "systemctl": f'{environ} exec {sys.executable} {stand_in} "$@"',
            "nginx": f'exec {part("nginx")} -c {self.root}/etc/nginx/nginx.conf "$@"',
            "apt-get": APT_GET,
        }
        if os.geteuid():
            programs["runuser"] = 'shift 3; exec "$@"'
        for name, text in programs.items():
            (self.root / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
            (self.root / "bin" / name).chmod(0o755)

    def _environ(self) -> dict[str, str]:
        """Return what an operator's shell has: nothing of this test run."""
        hidden = ("PYTHON", "VIRTUAL_ENV", "DATABASE_", "REFUSED_", "PG", "COV")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        python = Path(sys.base_prefix) / "bin"
        return {
            **kept,
            "PATH": f"{self.root}/bin:{python}:/usr/sbin:/usr/bin:/sbin:/bin",
            "PGHOST": str(self.cluster.folder),
            "PGPORT": str(self.cluster.port),
            "CURL_HOME": str(self.root / "etc"),
            "CURL_CA_BUNDLE": f"{self.root}/ca.pem",
            "LC_ALL": "C.UTF-8",
        }


def end(pid: int) -> None:
    """End a process that is not our child, and wait until it is gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 60
    while state(pid) not in "ZX":
        assert time.monotonic() < deadline, f"{pid} does not end"
        time.sleep(0.02)
