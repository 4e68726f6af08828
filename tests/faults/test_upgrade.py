"""docs/upgrade.md, command by command, while phones register: PostgreSQL 15 to 18, and back."""

import os
import re
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from app.config import ROOT
from app.database import embedded
from tests.support.clusters import Cluster
from tests.support.databases import migrate, opened
from tests.support.load import Load, load
from tests.support.parts import part
from tests.support.roles import psql
from tests.support.shell import Shell

DOCUMENT = (ROOT / "docs" / "upgrade.md").read_text().split("## By pg_upgrade")[0]
NEXT_EVENT = """
    INSERT INTO service_key_events (event, name, key_id, scopes)
    VALUES ('issued', 'sender', 'k', '{lookup}') RETURNING id
"""


def blocks() -> list[str]:
    """Return the document's commands, a block each."""
    found = re.findall(r"^   ```\n(.*?)^   ```$", DOCUMENT, re.M | re.S)
    return [re.sub("^   ", "", block, flags=re.M) for block in found]


@pytest.fixture
def blue():
    """Debian's PostgreSQL with the registry's roles and tables."""
    cluster = Cluster(Path(part("/usr/lib/postgresql/15/bin/postgres")).parent)
    try:
        cluster.create()
        cluster.start("wal_level=logical")
        cluster.wait_until_up()
        cluster.create_database()
        migrate(cluster.url(), "upgrade", "head")
        psql(cluster.url(), (ROOT / "deploy" / "postgresql" / "roles.sql").read_text())
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture
def green(new_cluster):
    """The wheel's PostgreSQL, empty."""
    cluster = new_cluster()
    cluster.create()
    cluster.start("wal_level=logical")
    cluster.wait_until_up()
    cluster.create_database()
    return cluster


def test_the_database_goes_over_to_18_and_back_and_loses_nothing(
    blue, green, unit, address, measured
):
    here = {
        f"postgresql://postgres:…@{name}.example.org/push_tokens": cluster.url()
        for name, cluster in (("blue", blue), ("green", green))
    }
    path = f"{embedded.binaries()}:{os.environ['PATH']}"
    shell = Shell(ROOT, {"PATH": path, "LC_ALL": "C.UTF-8"}, here)
    names, schema, follow, copied, over, back, tidy = blocks()
    with opened(blue.url()) as database:
        callers = [database.sign_in(f"user{number}") for number in range(20)]
        assert database.rows(NEXT_EVENT) == [{"id": 1}]
    assert shell.run(names).count("logical") == 2
    unit.start(url(blue))
    with load(address, callers) as there:
        for block in (schema, follow, copied):
            shell.run(block)
        unit.stop()
        unit.start(url(blue, green))
        there.first_success(time.monotonic())
        measured(over=go_over(shell, over, there))
    with opened(green.url()) as database:
        assert there.lost(database.connection) == []
        assert database.rows(NEXT_EVENT) == [{"id": 2}]
    with load(address, callers) as again:
        again.first_success(time.monotonic())
        measured(back=go_over(shell, back, again))
    with opened(blue.url()) as database:
        assert there.lost(database.connection) == []
        assert again.lost(database.connection) == []
        assert database.rows(NEXT_EVENT) == [{"id": 3}]
    for clients in (there, again):
        assert clients.statuses().keys() <= {200, 503}
        assert clients.acknowledged() > 20
    for _ in range(2):  # to stay; a second time it changes nothing
        shell.run(over)
    shell.run(tidy)
    shell.close()


def url(*clusters: Cluster) -> str:
    """Return the URI by which the service finds the one that takes writes."""
    hosts = quote(",".join(str(one.folder) for one in clusters), safe=",")
    return f"postgresql:///push_tokens?user=push_tokens_app&host={hosts}"


def go_over(shell: Shell, block: str, clients: Load) -> float:
    """Run the switch until registrations are acknowledged again; return its seconds."""
    begin = time.monotonic()
    shell.run(block)
    end = time.monotonic()
    clients.first_success(end)
    return end - begin
