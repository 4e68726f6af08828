"""What drives `app.registry.registration` straight over psycopg."""

import random
import time
from collections.abc import Sequence
from typing import Any

import psycopg

from app.registry import ways
from app.registry.registration import Outcome, Registered, Registration, Unwritten, first_round
from tests.support.shapes import is_spread


def connect(url: str, **options: Any) -> psycopg.Connection[Any]:
    """Open a connection that registers all day."""
    connection = psycopg.connect(url, autocommit=True, prepare_threshold=0, **options)
    for name, value in ways.way(is_distributed=is_spread()).settings.items():
        connection.execute(f"SET {name} = {value}", prepare=False)
    return connection


def run(connection: psycopg.Connection[Any], asked: Sequence[Registration]) -> list[Outcome]:
    """Register one round; return what became of each."""
    steps = ways.way(is_distributed=is_spread()).settle(asked)
    statement, parameters = next(steps)
    while True:
        try:
            cursor = connection.execute(statement, parameters)
        except psycopg.Error as error:
            statement, parameters = steps.throw(error)
            continue
        try:
            statement, parameters = steps.send(cursor.fetchall() if cursor.description else [])
        except StopIteration as end:
            return end.value


def run_all(
    connection: psycopg.Connection[Any], asked: Sequence[Registration], tries: int = 300
) -> tuple[list[Registered | None], int]:
    """Register all, whoever lost a race alone and again; return the results, and races lost."""
    results: list[Outcome] = [None] * len(asked)
    lost = 0
    left = list(range(len(asked)))
    while left:
        first, others = first_round([asked[place] for place in left])
        places = [left[n] for n in first]
        left = [left[n] for n in others]
        for place, result in zip(places, run(connection, [asked[n] for n in places]), strict=True):
            results[place] = result
        for place in places:
            while isinstance(results[place], Unwritten):
                lost += 1
                assert lost < tries * len(asked), "lost every race"
                time.sleep(random.uniform(0, 0.02))  # as the service does
                (results[place],) = run(connection, [asked[place]])
    return results, lost
