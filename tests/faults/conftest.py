"""What every fault hits: a database of its own, gunicorn, nginx, and clients that register."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.activation import SocketUnit
from tests.support.clusters import Cluster
from tests.support.databases import migrate, opened
from tests.support.factories import Caller
from tests.support.proxy import NO_LIMITS, nginx

CLIENTS = 40
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.faults)


@pytest.fixture
def new_cluster() -> Iterator[Callable[[], Cluster]]:
    """A function that makes a server, not yet created nor started."""
    made: list[Cluster] = []

    def make() -> Cluster:
        made.append(Cluster())
        return made[-1]

    yield make
    for cluster in made:
        cluster.remove()


@pytest.fixture(scope="session")
def stopped() -> Iterator[Cluster]:
    """A server with the registry's database, to be copied."""
    cluster = Cluster()
    try:
        cluster.serve()
        migrate(cluster.url(), "upgrade", "head")
        cluster.stop()
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture
def cluster(stopped: Cluster, new_cluster) -> Cluster:
    """A running server with the registry's database."""
    cluster = new_cluster()
    cluster.copy(stopped)
    cluster.start()
    cluster.wait_until_up()
    return cluster


@pytest.fixture
def callers(cluster: Cluster) -> list[Caller]:
    """The users of the load, signed in."""
    with opened(cluster.url()) as database:
        return [database.sign_in(f"user{number}") for number in range(CLIENTS)]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, for sockets."""
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        yield Path(name)


@pytest.fixture
def unit(folder: Path) -> Iterator[SocketUnit]:
    """The socket unit, whose gunicorn the test starts."""
    unit = SocketUnit(folder / "registry.sock")
    yield unit
    unit.close()


@pytest.fixture
def address(unit: SocketUnit, folder: Path) -> Iterator[str]:
    """The address of nginx before the unit, with limits that do not bite, and patience."""
    patience = {"proxy_read_timeout    20s;": "proxy_read_timeout 90s;"}
    with nginx(folder / "nginx", unit.path, changes=NO_LIMITS | patience) as proxy:
        yield f"127.0.0.1:{proxy.public}"
