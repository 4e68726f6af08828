"""What the tests of examples/apps share: the compiled Kotlin."""

import fcntl
import subprocess
from pathlib import Path

import pytest

from app.config import ROOT
from tests.support.parts import part


@pytest.fixture(scope="session")
def kotlin(tmp_path_factory) -> list[str]:
    """The command that runs PushToken.kt; compiled once, whichever process comes first."""
    compiler = part("kotlinc")
    folder: Path = tmp_path_factory.getbasetemp()
    if folder.name.startswith("popen-"):  # one of several processes of pytest-xdist
        folder = folder.parent
    jar = folder / "push_token.jar"
    with (folder / "push_token.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not jar.exists():
            main = ROOT / "tests" / "examples" / "push_token_main.kt"
            sources = [str(main), str(ROOT / "examples" / "apps" / "PushToken.kt")]
            # It runs once, too briefly for the better of Java's two compilers to pay.
            once = ["-J-XX:TieredStopAtLevel=1", "-J-XX:+UseSerialGC"]
            command = [compiler, *once, "-Werror", "-include-runtime", "-d", str(jar), *sources]
            subprocess.run(command, check=True)
    return [part("java"), "-jar", str(jar)]
