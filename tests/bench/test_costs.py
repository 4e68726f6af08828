"""What `make bench-costs` measures is what its names say."""

from types import SimpleNamespace

import psycopg
import pytest

from app.registry import registration
from app.registry.one_node import SESSION_SETTINGS
from bench.devices import KINDS, Sample, fill
from tests.support.databases import migrate

OUTCOMES = {
    "refresh": "refreshed",
    "refresh without id": "refreshed",
    "refresh with voip": "refreshed",
    "new device": "created",
    "new device with voip": "created",
    "rotation": "rotated",
    "new session": "refreshed",
}
STATEMENTS = 1  # the one for what costs little: none goes on to the second one


@pytest.fixture(scope="module")
def filled(new_database):
    """A database of its own: what is known of its tables' sizes is of no use to other tests."""
    url = new_database()
    migrate(url, "upgrade", "head")
    with psycopg.connect(url, autocommit=True) as connection:
        for name, value in SESSION_SETTINGS.items():
            connection.execute(f"SET {name} = '{value}'")
        fill(connection, 1000)
        yield connection


def test_what_is_filled_in_is_as_the_document_says(filled):
    count = "SELECT type, count(*), count(DISTINCT session_hash) FROM push_tokens GROUP BY 1"
    rows = {kind: numbers for kind, *numbers in filled.execute(count).fetchall()}
    assert rows == {"apn": [500, 500], "gcm": [500, 500], "voip": [100, 100]}
    lengths = """SELECT array_agg(DISTINCT length(user_id)),
        array_agg(DISTINCT length(device_id) ORDER BY length(device_id)),
        array_agg(DISTINCT length(token) ORDER BY length(token)) FROM push_tokens"""
    assert filled.execute(lengths).fetchone() == ([17], [16, 36], [64, 163])


def test_each_kind_of_registration_is_of_the_outcome_that_it_stands_for(filled):
    sample = Sample(SimpleNamespace(watch=filled), 1000)
    seen = {}
    for kind in KINDS:
        (group,) = sample.groups(SimpleNamespace(watch=filled), kind, 4, 1)
        steps, statements = registration.register(group), 0
        statement = next(steps)
        try:
            while True:
                statements += 1
                statement = steps.send(filled.execute(*statement).fetchall())
        except StopIteration as end:
            (seen[kind],) = {one.outcome for one in end.value}
        assert statements == STATEMENTS, kind
    assert seen == OUTCOMES
