"""deploy/systemd/: what can be known of the units without a systemd that runs them."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from app.cli.main import main
from app.config import ROOT
from tests.support.activation import BACKLOG
from tests.support.live import Live, free_port
from tests.support.parts import part

FOLDER = ROOT / "deploy" / "systemd"
UNITS = sorted(FOLDER.iterdir())
SERVICES = [unit for unit in UNITS if unit.suffix == ".service"]
# Of 10. What is left: the network, its sockets, and the system's files to read.
EXPOSURE = 1.1
# Runs gunicorn without the right to make memory executable, PR_SET_MDWE.
NO_MDWE = 77
DENY = f"""
import ctypes, runpy, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):
    sys.exit({NO_MDWE})
"""
DENIED = f'{DENY}runpy.run_module("gunicorn", run_name="__main__")'


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """The units, of a service that is installed where this checkout is."""
    folder = tmp_path_factory.mktemp("units")
    programs = f"{Path(sys.executable).parent}/"
    for unit in UNITS:
        text = unit.read_text().replace("/opt/push-token-registry/.venv/bin/", programs)
        (folder / unit.name).write_text(text.replace("/opt/push-token-registry", str(ROOT)))
    return folder


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [part("systemd-analyze"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_systemd_finds_nothing_wrong_with_the_units(here):
    done = analyze("verify", "--man=no", *sorted(here.iterdir()))
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_would_say_what_is_wrong(here):
    broken = here.parent / "broken.service"
    broken.write_text("[Service]\nExecStart=/nowhere/at/all\nPortectHome=yes\n")
    assert "Portect" in analyze("verify", "--man=no", broken).stderr


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_a_break_in_would_find_little_to_take(here, service):
    done = analyze("security", "--offline=true", "--no-pager", here / service.name)
    found = re.search(r"Overall exposure level .*: ([\d.]+)", done.stdout)
    assert found, done.stderr
    assert float(found[1]) <= EXPOSURE


def test_all_services_are_shut_in_alike():
    shut_in = {
        service.read_text().partition("# A user that")[2].partition("\n\n[")[0].strip()
        for service in SERVICES
    }
    assert len(shut_in) == 1
    assert "MemoryDenyWriteExecute=yes" in shut_in.pop()


def test_what_the_units_run_is_there():
    commands = dict(
        re.findall(r"ExecStart=\S+/bin/(\S+) (.*)", "".join(s.read_text() for s in SERVICES))
    )
    assert commands.keys() == {"gunicorn", "push-tokens"}
    for service in SERVICES:
        if found := re.search(r"bin/push-tokens (.*)", service.read_text()):
            said = CliRunner().invoke(main, [*found[1].split(), "--help"])
            assert said.exit_code == 0
            options = set(re.findall(r"--[a-z-]+", found[1]))
            assert options <= set(re.findall(r"--[a-z-]+", said.output))


def test_each_timer_has_its_service_and_runs_as_often_as_the_readme_says():
    timers = {unit.stem: unit.read_text() for unit in UNITS if unit.suffix == ".timer"}
    assert timers.keys() < {service.stem for service in SERVICES}
    assert "OnCalendar=daily" in timers["push-token-registry-purge"]
    assert "OnCalendar=hourly" in timers["push-token-registry-purge-sessions"]
    assert "OnCalendar=*:0/5" in timers["push-token-registry-sync"]


def test_the_socket_is_the_one_that_nginx_asks_and_the_tests_open():
    unit = (FOLDER / "push-token-registry.socket").read_text()
    (path,) = re.findall(r"ListenStream=(.*)", unit)
    assert f"server unix:{path} " in (ROOT / "deploy" / "nginx.conf").read_text()
    assert re.findall(r"Backlog=(.*)", unit) == [str(BACKLOG)]


def test_gunicorn_tells_systemd_that_it_is_ready_and_makes_no_code(database_url, tmp_path):
    """Type=notify; MemoryDenyWriteExecute by the kernel's own means (Linux 6.3)."""
    if subprocess.run([sys.executable, "-c", DENY], check=False).returncode == NO_MDWE:
        pytest.skip("the kernel cannot deny it")
    port = free_port()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "n"))
        notified.settimeout(180)
        environ = {"DATABASE_URL": database_url, "NOTIFY_SOCKET": str(tmp_path / "n")}
        with subprocess.Popen(
            [sys.executable, "-c", DENIED, "-c", "python:app.gunicorn_conf", "wsgi:app"],
            cwd=ROOT,
            env={**os.environ, **environ, "PORT": str(port), "LOG_LEVEL": "warning"},
        ) as process:
            live = Live(process, port)
            try:
                assert b"READY=1" in notified.recv(1000)
                deadline = time.monotonic() + 120
                while not live.says_yes("/readyz"):
                    assert process.poll() is None, "gunicorn ended"
                    assert time.monotonic() < deadline, "gunicorn is not ready"
                    time.sleep(0.05)
            finally:
                process.terminate()
                code = process.wait(60)
    assert code == 0
