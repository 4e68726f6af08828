"""When a command that a timer runs last did all it should, for Prometheus to see."""

import os
import tempfile
import time
from pathlib import Path

from app import services

NAME = "push_registry_command_last_success_timestamp_seconds"


def note_success(command: str) -> None:
    """Write the moment into a file of METRICS_TEXTFILE_DIR, where that is set.

    node_exporter's textfile collector reads it: a command ends before Prometheus can scrape it.
    Raises OSError where the folder takes no file, and leaves none behind then.
    """
    folder = services.current().settings.metrics_textfile_dir
    if folder is None:
        return
    text = (
        f"# HELP {NAME} When a command of push-tokens last did all it should.\n"
        f"# TYPE {NAME} gauge\n"
        f'{NAME}{{command="{command}"}} {time.time():.0f}\n'
    )
    file = tempfile.NamedTemporaryFile("w", dir=folder, delete=False)  # noqa: SIM115 (closed and removed below)
    try:
        with file:
            file.write(text)
        os.chmod(file.name, 0o644)  # the collector is another user
        os.replace(file.name, Path(folder) / f"push_registry_{command.replace(' ', '_')}.prom")
    except OSError:
        Path(file.name).unlink(missing_ok=True)
        raise
