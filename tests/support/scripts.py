"""The revisions, and the scripts that Alembic prints of them."""

from contextlib import redirect_stderr
from functools import cache
from io import StringIO

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from app.config import ROOT

SCRIPTS = ScriptDirectory(str(ROOT / "migrations"))
EXPANDED = ["0004_environment", "0009_device_id_index"]  # what follows demands filled rows


@cache
def script(verb: str, span: str) -> str:
    """Return what `alembic VERB SPAN --sql` prints."""
    printed, complaints = StringIO(), StringIO()
    config = Config(toml_file=ROOT / "pyproject.toml", output_buffer=printed)
    with redirect_stderr(complaints):
        getattr(command, verb)(config, span, sql=True)
    assert complaints.getvalue() == ""
    return printed.getvalue()
