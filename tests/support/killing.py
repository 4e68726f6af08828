"""Commands that are killed in the middle of their work."""

import os
import subprocess
import sys
import time
from collections.abc import Callable

from tests.support.databases import opened
from tests.support.factories import uri
from tests.support.patience import wait_until

NAME = "killed"
# The statement of a process that was killed goes on, and its commit may come after the kill.
GOES_ON = """
SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s
"""


def killed_halfway(
    url: str, prepare: Callable[[], object], rows: str, *command: str, end: int = 0
) -> int:
    """Prepare rows, run `push-tokens …`, and kill it once the number of `rows` has changed.

    `rows` is what follows SELECT count(*) FROM. Returns their number then. Where that is `end`,
    the command was through before it was seen to have begun: on a busy machine all begins anew.
    """
    with opened(url) as database:

        def number() -> int:
            return int(database.rows(f"SELECT count(*) AS n FROM {rows}")[0]["n"])

        for _ in range(5):
            prepare()
            now = before = number()
            with subprocess.Popen(
                [sys.executable, "-m", "flask", "push-tokens", *command],
                env={**os.environ, "DATABASE_URL": uri(url, application_name=NAME)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ) as process:
                while now == before and process.poll() is None:
                    time.sleep(0.01)
                    now = number()
                process.kill()
            wait_until(lambda: not database.rows(GOES_ON, NAME))
            now = number()
            if now != end:
                break
        assert min(before, end) < now < max(before, end)
        return now
