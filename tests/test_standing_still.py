"""A test that fails while the machine stands still is run again, any other has failed."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from app.config import ROOT

CONFTEST = (
    "from tests.support.standing_still import pytest_runtest_protocol, pytest_sessionstart\n"
)
TEST = """
import os, time

def test_it():
    with open({tries!r}, "a") as file:
        file.write("x")
    time.sleep({seconds})
    assert os.path.getsize({tries!r}) > {fails}
"""


@pytest.mark.slow
@pytest.mark.parametrize(("stops", "fails", "tries"), [(True, 1, 2), (True, 9, 3), (False, 1, 1)])
def test_which_test_is_run_again(tmp_path, stops, fails, tries):
    counted = tmp_path / "tries"
    seconds = 1.5 if stops else 0
    test = TEST.format(tries=str(counted), seconds=seconds, fails=fails)
    (tmp_path / "test_it.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.support.standing_still", "."]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        if stops:
            threading.Thread(target=stop_in_each_try, args=(process, counted)).start()
        said, _ = process.communicate(timeout=300)
    assert counted.read_text() == "x" * tries, said
    assert process.returncode == (tries <= fails), said


def stop_in_each_try(process, counted):
    """Have it stand still for longer than is no stall, once it has begun a try."""
    seen = 0
    while process.poll() is None:
        begun = counted.stat().st_size if counted.exists() else 0
        if begun > seen:
            seen = begun
            process.send_signal(signal.SIGSTOP)
            time.sleep(2.5)
            process.send_signal(signal.SIGCONT)
        time.sleep(0.02)
