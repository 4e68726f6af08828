"""nginx with the sites of deploy/, on free ports and files of the test's own."""

import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.config import ROOT
from tests.support.activation import workers
from tests.support.live import free_port
from tests.support.parts import part
from tests.support.patience import wait_until

SITE = ROOT / "deploy" / "nginx.conf"
BESIDE = ROOT / "deploy" / "nginx-beside-rocketchat.conf"

MAIN = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/main-error.log;
worker_processes 1;
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    access_log off;
    # Lets a test come from any address.
    set_real_ip_from 127.0.0.1; real_ip_header X-Test-Address;
    include {folder}/sites/*.conf;
}}
"""
# What a test of the load needs: limits that do not bite.
NO_LIMITS = {"rate=30r/m": "rate=100000r/s", "rate=50r/s": "rate=100000r/s"}


@dataclass
class Proxy:
    """A running nginx."""

    folder: Path
    public: int
    internal: int
    chat: int

    def logs(self) -> str:
        """Return all that it logged."""
        return "".join(path.read_text(errors="replace") for path in self.folder.glob("*.log"))


def substituted(text: str, changes: dict[str, str]) -> str:
    """Replace what a site says about its machine; each must occur."""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def certify(folder: Path) -> None:
    """Make the certificate files that the sites name."""
    request = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    files = ("-keyout", str(folder / "privkey.pem"), "-out", str(folder / "fullchain.pem"))
    subprocess.run([*request.split(), *names, *files], check=True, capture_output=True)
    for kind in ("privkey", "fullchain"):
        (folder / f"chat-{kind}.pem").write_bytes((folder / f"{kind}.pem").read_bytes())


@contextmanager
def nginx(
    folder: Path,
    registry: Path,
    *,
    tls: bool = False,
    changes: dict[str, str] | None = None,
    rocketchat: int | None = None,
) -> Iterator[Proxy]:
    """Run nginx before the unix socket `registry`; with `rocketchat`'s port the second site too.

    Without `tls` its sites speak plain HTTP, so that a load does not measure encryption.
    """
    program = part("nginx")
    proxy = Proxy(folder, free_port(), free_port(), free_port())
    (folder / "sites").mkdir(parents=True)
    certify(folder)
    ssl = " ssl http2" if tls else ""
    common = {
        "/etc/push-token-registry/tls": str(folder),
        "/var/log/nginx": str(folder),
        "listen [::]:443 ssl http2;": "",
    }
    here = {
        "listen 443 ssl http2;": f"listen 127.0.0.1:{proxy.public}{ssl};",
        "listen 127.0.0.1:8080;": f"listen 127.0.0.1:{proxy.internal};",
        "/run/push-token-registry/gunicorn.sock": str(registry),
    }
    site = substituted(SITE.read_text(), common | here | (changes or {}))
    (folder / "sites" / "a.conf").write_text(site)
    if rocketchat:
        there = {
            "listen 443 ssl http2;": f"listen 127.0.0.1:{proxy.chat}{ssl};",
            "127.0.0.1:3000": f"127.0.0.1:{rocketchat}",
        }
        (folder / "sites" / "b.conf").write_text(substituted(BESIDE.read_text(), common | there))
    main = MAIN.format(folder=folder)
    if os.geteuid() == 0:
        main = "user root;" + main  # its workers read the test's folder
    (folder / "nginx.conf").write_text(main)
    command = [program, "-e", str(folder / "main-error.log"), "-c", str(folder / "nginx.conf")]
    process = subprocess.Popen(command)
    try:
        wait_for_port(proxy.public, process)
        # It listens before it has a worker and a file that says whom to signal.
        wait_until(lambda: (folder / "nginx.pid").exists() and workers(process.pid))
        yield proxy
    finally:
        process.terminate()
        process.wait(60)
    alarming = re.findall(r".*\[(?:emerg|alert)\].*", proxy.logs())
    assert not alarming, alarming


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until somebody listens on a local port."""
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None, "it ended"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=20).close()
        except OSError:
            assert time.monotonic() < deadline, "nobody listens"
            time.sleep(0.05)
        else:
            return
