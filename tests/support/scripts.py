"""The revisions, and the scripts that Alembic prints of them."""

import subprocess
import sys

from alembic.script import ScriptDirectory

from app.config import ROOT

SCRIPTS = ScriptDirectory(str(ROOT / "migrations"))
EXPANDED = "0004_environment"  # what follows demands that rows are filled


def script(verb: str, span: str) -> str:
    """Return what Alembic prints."""
    command = [sys.executable, "-m", "alembic", verb, span, "--sql"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout
