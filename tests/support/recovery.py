"""How long a request may take, and how soon all is well again."""

import time
from collections.abc import Callable

from app.config import Settings
from app.database.connections import SILENCE_TIMEOUT
from tests.support.load import Load

DEFAULTS = Settings()
# The longest that a request may take: its turn comes at the last moment, then a statement that
# nobody answers, or a connection to each host of the URI.
LONGEST = DEFAULTS.request_deadline + DEFAULTS.database_statement_timeout + SILENCE_TIMEOUT
RECOVERY = 2.0  # seconds after the database


def check_recovery(clients: Load, back: float, measured: Callable[..., None]) -> None:
    """All is well from two seconds after the database is back, with the same gunicorn.

    Seconds during which the machine let nobody work do not count.
    """
    recovered = clients.first_success(back) - back
    measured(recovered_after=recovered)
    assert recovered - clients.stalls.within(back, back + recovered) < RECOVERY
    time.sleep(max(0, back + RECOVERY - time.monotonic()))
    clients.each_again()
    settled = back + RECOVERY + clients.stalls.within(back, back + RECOVERY)
    clients.each_again(3)
    assert clients.begun(settled).keys() == {200}
