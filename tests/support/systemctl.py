"""`systemctl` where no systemd runs: does what the unit files say, as far as a test needs it.

Run as a program, with WALK naming the folder that stands for `/`. A service gets its socket, its
EnvironmentFile and nothing else of the environment, and under root a user who may write
nothing, as DynamicUser= gives it one. A timer runs its service once.
"""

import os
import pwd
import shlex
import signal
import socket
import subprocess
import sys
import time
from configparser import RawConfigParser
from pathlib import Path

from app.database import embedded

ROOT = Path(os.environ["WALK"])
UNITS = ROOT / "etc" / "systemd" / "system"
# A service's descriptors begin with 3, and LISTEN_PID is its own process id.
BECOME = 'exec 3<&{}; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@"'


class _Unit(RawConfigParser):
    """A unit file, in which a key may come again."""

    def __init__(self, name: str):
        super().__init__(strict=False, interpolation=None)
        self.optionxform = str  # type: ignore[assignment,method-assign]
        assert self.read(UNITS / name), f"Unit {name} not found."


def _environment(unit: _Unit) -> dict[str, str]:
    lines = Path(unit["Service"]["EnvironmentFile"]).read_text().splitlines()
    named = [shlex.split(line)[0].partition("=") for line in lines if line.strip()]
    return {"PATH": "/usr/bin:/bin", **{name: value for name, _, value in named}}


def _start(name: str) -> subprocess.Popen[bytes]:
    """Start a service's process, with a socket where it has one."""
    unit = _Unit(name)
    command = embedded.as_unprivileged(shlex.split(unit["Service"]["ExecStart"]))
    environment = _environment(unit)
    handed = []
    if (UNITS / name.replace(".service", ".socket")).exists():
        listener = _listen(_Unit(name.replace(".service", ".socket")))
        handed.append(listener.detach())
        command = ["sh", "-c", BECOME.format(handed[0]), "sh", *command]
        environment["NOTIFY_SOCKET"] = str(ROOT / "run" / "notify")
    with (ROOT / "var" / "log" / "journal").open("ab") as journal:
        return subprocess.Popen(
            command,
            cwd=unit["Service"]["WorkingDirectory"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=journal,
            stderr=journal,
            start_new_session=True,
            pass_fds=handed,
        )


def _listen(unit: _Unit) -> socket.socket:
    path = Path(unit["Socket"]["ListenStream"])
    path.parent.mkdir(mode=int(unit["Socket"]["DirectoryMode"], 8), exist_ok=True)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(int(unit["Socket"]["SocketMode"], 8))
    if not os.geteuid():
        os.chown(path, pwd.getpwnam(unit["Socket"]["SocketUser"]).pw_uid, -1)
    listener.listen(int(unit["Socket"]["Backlog"]))
    return listener


def _pid_file(name: str) -> Path:
    return ROOT / "run" / f"{name}.pid"


def start(name: str) -> None:
    """Start a service and wait until it says READY=1, or run one of Type=oneshot to its end."""
    if _Unit(name)["Service"]["Type"] == "oneshot":
        assert _start(name).wait(120) == 0, f"Job for {name} failed."
        return
    path = ROOT / "run" / "notify"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(path))
        path.chmod(0o666)
        notified.settimeout(180)
        process = _start(name)
        _pid_file(name).write_text(str(process.pid))
        while b"READY=1" not in notified.recv(4096):
            assert process.poll() is None, f"Job for {name} failed."


def stop(name: str) -> None:
    """End a service and wait until it is gone."""
    pid = int(_pid_file(name).read_text())
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}/exe").exists():
        assert time.monotonic() < deadline, f"{name} does not end"
        time.sleep(0.02)
    _pid_file(name).unlink()


def nginx() -> None:
    """Start nginx, or have it read its configuration again."""
    program = [str(ROOT / "bin" / "nginx")]
    pid = ROOT / "run" / "nginx.pid"
    is_up = pid.exists() and pid.read_text()  # `nginx -t` leaves an empty one
    subprocess.run([*program, *(["-s", "reload"] if is_up else [])], check=True)


def main(verb: str, *arguments: str) -> None:
    """Do what systemctl does for `verb`."""
    named = [one for one in arguments if not one.startswith("--")]
    for name in [one if "." in one else f"{one}.service" for one in named]:
        if name == "nginx.service":
            nginx()
        elif verb == "stop":
            stop(name)
        elif name.endswith(".socket"):
            continue  # made when its service starts
        else:
            if verb == "restart":
                stop(name)
            start(name.replace(".timer", ".service"))


if __name__ == "__main__":
    main(*sys.argv[1:])
