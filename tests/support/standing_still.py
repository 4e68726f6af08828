"""A machine that stood still spoils one try of a test; a defect spoils the next one too.

Virtual machines stand still for ten seconds and more: timeouts of ours, of nginx and of PostgreSQL
pass meanwhile, though nobody was slow. A test that failed while that happened is run again, and
the summary says for how long it was. One that fails without it has failed.
"""

import time

import pytest
from _pytest.runner import runtestprotocol

from tests.support.patience import Stalls

STOOD_STILL = 2.0  # seconds: less breaks no bound
TRIES = 3
NAP = 0.25  # seconds

_stalls = Stalls(NAP)


def pytest_sessionstart() -> None:
    """Begin to watch the machine."""
    _stalls.start()


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    """Run a test, again where it failed while the machine stood still."""
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for tries_left in reversed(range(TRIES)):
        begin = time.monotonic()
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        if not any(report.failed for report in reports) or not tries_left:
            break
        time.sleep(2 * NAP)  # the watch wakes from what there was
        stood_still = _stalls.longest(begin)
        if stood_still < STOOD_STILL:
            break
        item.user_properties.append(("failed_while_the_machine_stood_still", stood_still))
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
