"""deploy/Containerfile and compose.yaml: what can be known of them without an engine."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from app import gunicorn_conf
from app.config import ROOT, Settings
from tests.support.activation import SocketUnit
from tests.support.databases import migrate
from tests.support.filled import fill
from tests.support.live import Live, free_port

CONTAINERFILE = (ROOT / "deploy" / "Containerfile").read_text()
SOCKET = "/run/push-token-registry/gunicorn.sock"


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, object]]:
    return yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]


@pytest.fixture
def image(tmp_path) -> Path:
    """What the Containerfile copies into /srv, and nothing else of the checkout."""
    folder = tmp_path / "srv"
    folder.mkdir()
    let_through = (ROOT / ".dockerignore").read_text()
    for sources, target in re.findall(r"^COPY (?!--)(.*) (\S+)$", CONTAINERFILE, re.M):
        for source in sources.split():
            assert f"!{source}\n" in let_through
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, folder / Path(target).name)
            else:
                shutil.copy(ROOT / source, folder)
    return folder


def test_what_is_copied_is_enough_to_migrate_and_to_serve(image, new_database, services):
    """Of a database with rows that are to be filled on the way, too."""
    port, url = free_port(), new_database()
    migrate(url, "upgrade", "0003_refresh_heavy_tables")
    fill(url)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = {**os.environ, "DATABASE_URL": url, "PORT": str(port), "PATH": path}
    command = services["migrate"]["command"]
    subprocess.run(command, cwd=image, env=environ, check=True, capture_output=True)
    serve = re.search(r'^CMD \["gunicorn", "(.*)"\]$', CONTAINERFILE, re.M)[1].split('", "')
    serve[serve.index("-b") + 1] = f"127.0.0.1:{port}"
    command = [sys.executable, "-m", "gunicorn", *serve]
    with subprocess.Popen(command, cwd=image, env=environ, stderr=subprocess.PIPE) as process:
        try:
            for line in process.stderr:
                if b"Booting worker" in line:
                    break
            live = Live(process, port)
            while not live.says_yes("/readyz"):
                assert process.poll() is None
        finally:
            process.terminate()
            process.stderr.read()
            assert process.wait(40) == 0


def test_every_package_is_pinned_by_its_hash():
    for name in re.findall(r"-r /build/(\S+)", CONTAINERFILE):
        packages = re.split(r"\n(?=[a-z])", (ROOT / name).read_text())
        assert packages
        assert all("--hash=sha256:" in one for one in packages if not one.startswith("#")), name
    assert CONTAINERFILE.count("--require-hashes") == CONTAINERFILE.count("pip install") == 1


def test_what_the_services_name_is_there(services):
    known = {setting.name.upper() for setting in fields(Settings)}
    for name in ("migrate", "registry"):
        assert services[name]["environment"].keys() <= known
    mounted = [volume for volume in services["nginx"]["volumes"] if volume.startswith("./")]
    inner = re.search(r"sed 's/(listen \S+;)/listen 8080;/'", services["nginx"]["command"][-1])[1]
    assert inner in (ROOT / "deploy" / "nginx.conf").read_text()
    assert (ROOT / "deploy" / mounted[0].split(":")[0]).is_file()
    for service in services.values():
        assert service.get("depends_on", []) == [] or set(service["depends_on"]) <= set(services)


def test_nginx_and_the_registry_share_the_socket(services):
    folder = str(Path(SOCKET).parent)
    assert f'"-b", "unix:{SOCKET}"' in CONTAINERFILE
    assert f"server unix:{SOCKET} " in (ROOT / "deploy" / "nginx.conf").read_text()
    for name in ("registry", "nginx"):
        assert f"socket:{folder}" in services[name]["volumes"]


def test_the_engine_waits_longer_than_gunicorn_takes_to_stop(services):
    grace = int(services["registry"]["stop_grace_period"].removesuffix("s"))
    assert grace > gunicorn_conf.graceful_timeout


def test_the_health_check_sees_whether_gunicorn_lives(services, database_url, tmp_path_factory):
    path = tmp_path_factory.mktemp("s") / "s"
    _, *command = services["registry"]["healthcheck"]["test"]
    command = [sys.executable, *(one.replace(SOCKET, str(path)) for one in command[1:])]
    assert subprocess.run(command, check=False, capture_output=True).returncode != 0
    unit = SocketUnit(path)
    unit.start(database_url)
    try:
        assert subprocess.run(command, check=False).returncode == 0
    finally:
        unit.close()
