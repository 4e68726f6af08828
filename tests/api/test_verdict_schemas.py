"""Verdicts are read by a loop of our own, and it says what marshmallow's `load` says."""

import itertools

import pytest
from marshmallow import ValidationError

from app.api.errors import first_problem
from app.api.verdict_schemas import Verdict, feedback

RIGHT = {
    "appName": "chat.example",
    "value": "abc",
    "provider": "apns",
    "status": 410,
    "error": "UNREGISTERED",
    "reason": "Unregistered",
    "response": {"reason": "Unregistered"},
    "timestamp": 1790000000000,
    "sentAt": "2026-11-01T10:00:00+00:00",
    "payloadValid": True,
    "credentialsValid": False,
    "environmentRight": True,
    "other": "ignored",
}
VALUES = (None, "", 0, 1, True, 410.0, "410", "x", "x" * 5000, "\0", [], [1], {}, {"a": 1})


def loaded(verdict):
    present = {name: value for name, value in verdict.items() if value not in (None, "")}
    try:
        return Verdict().load(present)
    except ValidationError as error:
        return first_problem(error)[0]


def changed():
    """Give verdicts with one field, or with two, of another value or of none."""
    yield from ({}, RIGHT, {"appName": 1, "value": 2})
    for name, value in itertools.product(RIGHT, VALUES):
        yield RIGHT | {name: value}
    for one, other in itertools.combinations(RIGHT, 2):
        yield RIGHT | {one: [], other: {"a": 1}}
        yield {name: RIGHT[name] for name in RIGHT if name not in (one, other)}


def test_a_verdict_is_read_as_by_its_schema():
    verdicts = list(changed())
    assert feedback.load({"results": verdicts})["results"] == list(map(loaded, verdicts))


@pytest.mark.parametrize("element", [None, 0, "x", [], True])
def test_what_is_no_object_is_no_verdict(element):
    (said,) = feedback.load({"results": [element]})["results"]
    assert said in ("Field may not be null.", "Invalid input type.")
