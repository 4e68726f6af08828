"""The first `make run` on any machine: what stands in the way is one line with what helps."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app import run
from app.config import ROOT
from app.database import embedded


@pytest.fixture
def checkout(tmp_path):
    """What `make .venv/run.installed` needs of a checkout, with a lock of no packages."""
    folder = tmp_path / "checkout"
    (folder / ".ci").mkdir(parents=True)
    (folder / "app" / "cli").mkdir(parents=True)
    for name in ("Makefile", ".ci/venv", "app/cli/push-tokens.sh"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "requirements-run.txt").write_text("# nothing\n")
    return folder


def fake_python(folder: Path, script: str) -> str:
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def make(folder: Path, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    command = ["make", "-s", ".venv/run.installed", f"PYTHON={python}"]
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(folder)}
    return subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, check=False
    )


def lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode != 0
    return [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]


def test_an_old_python_is_named_with_what_helps(checkout):
    old = fake_python(checkout, '[ "$1" = --version ] && echo Python 3.9.2; exit 1')
    (line,) = lines(make(checkout, old))
    assert "is Python 3.9.2, and 3.11 or later is needed" in line
    assert "make run PYTHON=python3.11" in line
    (line,) = lines(make(checkout, "python-that-is-not-there"))
    assert "there is no python-that-is-not-there: install Python 3.11 or later" in line


def test_a_python_without_venv_is_named_with_what_helps(checkout):
    bare = fake_python(checkout, f'case "$2" in *ensurepip*) exit 1;; esac; {sys.executable} "$@"')
    (line,) = lines(make(checkout, bare))
    assert line.endswith("has no module venv: install it (Debian: apt-get install python3-venv)")


@pytest.mark.slow
def test_a_half_made_environment_is_replaced(checkout):
    """By another Python, or without pip; what is whole stays."""
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (checkout / ".venv" / "left").touch()
    done = make(checkout)
    assert done.returncode == 0, done.stderr
    assert "Replacing .venv, which is of another Python or was not finished." in done.stderr
    assert "Installing the 0 packages of requirements-run.txt" in done.stderr
    assert not (checkout / ".venv" / "left").exists()
    assert (checkout / ".venv" / "bin" / "push-tokens").exists()
    (checkout / ".venv" / "kept").touch()
    os.utime(checkout / "requirements-run.txt", (time.time() + 60, time.time() + 60))
    assert "Replacing" not in make(checkout).stderr
    assert (checkout / ".venv" / "kept").exists()


def test_settings_of_pip_for_the_user_do_not_count(checkout):
    """`user = true`, which pip refuses within a virtual environment."""
    bin_ = checkout / ".venv" / "bin"
    bin_.mkdir(parents=True)
    fake_python(bin_, '[ "$3" != install ] || [ "$PIP_USER" = 0 ]')
    done = make(checkout)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("ERROR: [Errno 28] No space left on device", "the disk is full: make room"),
        ("OSError: [Errno 30] Read-only file system: '/x'", "the file system is read-only"),
        ("PermissionError: [Errno 13] Permission denied: '/x'", "no right to write to .venv"),
        ("ERROR: connection to x timed out", "no package index answers: check the network"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", "THESE PACKAGES DO NOT MATCH"),
    ],
)
def test_what_pip_stumbles_over_is_one_line(checkout, said, line):
    bin_ = checkout / ".venv" / "bin"
    bin_.mkdir(parents=True)
    fake_python(
        bin_,
        f'[ "$4" != --disable-pip-version-check ] && [ "$3" != install ] || '
        f'{{ echo "{said}" >&2; exit 1; }}',
    )
    *_, last = lines(make(checkout))
    assert line in last


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full: make room"),
        (errno.EROFS, "the file system is read-only: use"),
        (errno.EACCES, "no right to write there: use"),
    ],
)
def test_a_disk_that_takes_nothing_is_one_line(tmp_path, monkeypatch, number, words, capfd):
    """As the system says it, and as PostgreSQL's programs say it."""
    server = embedded.Server(tmp_path / "pg")

    def fail(*_, **__):
        raise OSError(number, os.strerror(number), str(tmp_path))

    monkeypatch.setattr(embedded.tempfile, "mkdtemp", fail)
    monkeypatch.setattr(embedded, "server", server)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("PORT", "0x")
    with pytest.raises(SystemExit):
        run.main()
    monkeypatch.delenv("PORT")
    monkeypatch.setattr(run, "_check_port", lambda port: None)
    assert run.main() == 1
    *_, line = capfd.readouterr().err.splitlines()
    assert line.startswith(f"push-token-registry: PostgreSQL cannot start in {server.folder}: ")
    assert words in line
    error = embedded.EmbeddedError(
        tmp_path, f'initdb: error: could not write "x": {os.strerror(number)}\nremoving'
    )
    assert words in str(error)


def test_an_interrupted_initdb_leaves_nothing(tmp_path):
    """Nor does one that was killed, after the next start."""
    code = (
        "import sys, pathlib; from app.database.embedded import Server;"
        " Server(pathlib.Path(sys.argv[1])).acquire()"
    )
    folder = tmp_path / "pg"
    (folder / "new-left").mkdir(parents=True)
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], cwd=ROOT, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 90
        while not [*folder.glob("new-*/base")]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
    left = {path.name for path in folder.iterdir()}
    assert left <= {"start.lock", "users.lock"}


def test_the_terminal_shows_warnings_short_and_no_requests():
    """So that the curl stays in sight; the file that is named has all lines."""
    line = b'{"level":"INFO","message":"request","route":"/x"}\n'
    assert run.short(line) is None
    line = b'{"level":"WARNING","logger":"app","message":"unavailable: \\u001b[2J"}\n'
    assert run.short(line) == "\033[33mwarning\033[0m unavailable: [2J"
    assert (
        run.short(b"Traceback (most recent call last):\n") == "Traceback (most recent call last):"
    )
