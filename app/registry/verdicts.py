"""What a push provider answered, read from what the senders' libraries make of it.

Libraries wrap the same answer in their own ways: FCM's error object, its whole body, an error code
of their own, APNs' JSON. Each function returns None where there is nothing to read.
"""

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from app.limits import MAX_MOMENT

FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
# The codes of firebase-admin for Node, which come instead of FCM's own.
ADMIN_CODES = {
    "messaging/registration-token-not-registered": "UNREGISTERED",
    "messaging/installation-id-not-registered": "UNREGISTERED",  # from 14 on, of an installation
    "messaging/invalid-argument": "INVALID_ARGUMENT",
    "messaging/invalid-registration-token": "INVALID_ARGUMENT",
    "messaging/mismatched-credential": "SENDER_ID_MISMATCH",
}
# An answer inside an answer: what firebase-admin for Node got (`httpResponse` with `data`) or
# says (`errorInfo`), what Node's libraries for APNs and Google's got (`response`), and the one
# field of FCM's body.
WRAPPERS = ("httpResponse", "response", "data", "error", "errorInfo")
DEPTH = 4  # of wrappers
# Characters of an answer that is text: a longer one is none of a provider's, and parsing what a
# request's body hides in a string would stop the worker for a second.
MAX_TEXT = 16_384
MAX_CODE = 256  # characters; to change the case of 16 MiB keeps others waiting for 0.2 s

EPOCH = datetime.fromtimestamp(0, UTC)
# An earlier moment is none: seconds instead of milliseconds, or 0.
EARLIEST = datetime(2015, 1, 1, tzinfo=UTC)


def as_moment(value: Any) -> datetime | None:
    """Return a moment in ms since 1970 or in ISO 8601, cut to milliseconds; None before 2015.

    Raises ValueError for anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("no moment")
    if isinstance(value, str) and len(value) > MAX_MOMENT:
        raise ValueError("too long")
    if isinstance(value, str) and not value.isdecimal():
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError("no offset")
    else:
        try:
            moment = EPOCH + timedelta(milliseconds=int(value))
        except OverflowError:
            raise ValueError("out of range") from None
    return cut(moment) if moment >= EARLIEST else None


def cut(moment: datetime) -> datetime:
    """Cut to milliseconds, like the time of a registration, so that neither looks later."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def code_of(said: Any) -> str | None:
    """Return FCM's error code, or APNs' reason, of a text or an object."""
    if isinstance(said, str):
        return _text(said)
    for answer in _unwrapped(said):
        if code := _code_in(answer):
            return code
    return None


def body_of(response: Any) -> Any:
    """Return a provider's body as an object: it may still be JSON text, or a proxy's page."""
    if not isinstance(response, str):
        return response
    if len(response) > MAX_TEXT:
        return None
    try:
        return orjson.loads(response)
    except orjson.JSONDecodeError:
        return None


def opened(said: Any) -> Any:
    """Return an object that is given as its JSON text; anything else as it is."""
    return body_of(said) or said if isinstance(said, str) and said.startswith("{") else said


def moment_in(said: Any) -> datetime | None:
    """Return the `timestamp` of APNs' body, wherever it is in an object."""
    for answer in _unwrapped(said):
        with suppress(ValueError):
            if moment := as_moment(answer.get("timestamp")):
                return moment
    return None


def _unwrapped(said: Any) -> list[Mapping[str, Any]]:
    """Return the objects in an answer, the innermost first: a provider's own words win."""
    found: list[Mapping[str, Any]] = []
    while isinstance(said, Mapping) and len(found) < DEPTH:
        found.insert(0, said)
        inner = (body_of(said[name]) for name in WRAPPERS if name in said)
        said = next((one for one in inner if isinstance(one, Mapping)), None)
    return found


def _code_in(answer: Mapping[str, Any]) -> str | None:
    details = answer.get("details")
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, Mapping) and detail.get("@type") == FCM_ERROR:
            return _text(detail.get("errorCode"))
    names = ("reason", "status", "code", "error")
    return next((code for name in names if (code := _text(answer.get(name)))), None)


def _text(value: Any) -> str | None:
    is_code = isinstance(value, str) and 0 < len(value) <= MAX_CODE
    return ADMIN_CODES.get(value, value) if is_code else None
