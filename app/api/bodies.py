"""How a body or a query becomes a mapping of fields."""

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any
from urllib.parse import parse_qsl

import orjson
from flask import Flask, Request, Response, request, stream_with_context
from flask.json.provider import JSONProvider
from marshmallow import ValidationError
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge, UnsupportedMediaType

from app.api import errors

MAX_BODY = 64 * 1024  # bytes, of every call that is not in the table
_MIB = 1024 * 1024
# Calls that may send more, each as much as the largest request that its schema takes, with every
# character written as a JSON escape of 6 bytes. They are read once the service key is checked.
BODY_LIMITS = {
    "/api/v1/push.tokens.lookup": 2 * _MIB,  # 1,000 user ids of 255 bytes
    "/api/v1/push.tokens.feedback": 16 * _MIB,  # 1,000 verdicts of the longest names and values
    "/api/v1/sessions.put": 3 * _MIB,  # 1,000 user ids with a hash and a date each
    "/api/v1/sessions.revoke": _MIB // 2,  # 1,000 hashes of 44 characters
}
# What a body over MAX_BODY may have of `{`, `[` and `,`: 100 for each of 1,000 elements. FCM's
# error object has 15.
MAX_SEPARATORS = 100_000
MAX_FORM_FIELDS = 100  # a call has seven at most; each costs about 1 µs, and 64 KiB have 30,000


class OrjsonProvider(JSONProvider):
    """Flask's JSON by orjson, keys in the order in which they were written."""

    def dumps(self, obj: Any, **kwargs: Any) -> str:
        """Return the JSON text of `obj`."""
        return orjson.dumps(obj).decode()

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        """Return what the JSON text says."""
        return orjson.loads(s)

    def response(self, *args: Any, **kwargs: Any) -> Response:
        """Return a response that holds the one argument as JSON."""
        return Response(
            orjson.dumps(self._prepare_response_obj(args, kwargs)), mimetype="application/json"
        )


def _refuse(name: str) -> None:
    raise ValueError(name)


def _from_json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        # The standard library also reads lone surrogates and huge numbers, so that the error
        # names the field that has them instead of the first one. NaN, which it reads, is no JSON.
        try:
            return json.loads(body.decode(), parse_constant=_refuse)
        except (ValueError, RecursionError):
            return {}


def _from_urlencoded(text: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            text.decode(),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=MAX_FORM_FIELDS,
        )
    except ValueError:
        return {}
    return dict(pairs)


def _refuse_large_body() -> None:
    """Answer 413 to every call whose body is over its limit, without reading it."""
    if (request.content_length or 0) > limit_of(request.path):
        raise RequestEntityTooLarge


def limit_of(path: str) -> int:
    """Return the bytes that the body of a call may have."""
    return BODY_LIMITS.get(path, MAX_BODY)


def _read(request: Request) -> bytes:
    """Return the body; raise 413 for one over its limit, 400 for one that is cut short."""
    limit = limit_of(request.path)
    try:
        body: bytes = request.stream.read(limit + 1)
    except OSError as error:  # it ends early, or its chunks are malformed
        raise BadRequest from error
    if len(body) > limit:
        raise RequestEntityTooLarge
    if len(body) < (request.content_length or 0):
        raise BadRequest
    return body


def body_fields(request: Request) -> dict[str, Any]:
    """Return the fields of a JSON or form body; whatever else it is counts as `{}`.

    Rocket.Chat swallows every parse error too, and the missing field is what it then reports.
    """
    body = _read(request)
    if request.mimetype == "application/json":
        fields = _from_json(body)
        return fields if isinstance(fields, dict) else {}
    if request.mimetype == "application/x-www-form-urlencoded":
        return _from_urlencoded(body)
    return {}


def _has_too_many_values(body: bytes) -> bool:
    """Tell whether JSON has over MAX_SEPARATORS of `{`, `[` and `,` outside of its strings.

    It is asked before parsing because a parsed value takes up to 250 bytes: 16 MiB of `{},` would
    be more than a gigabyte.
    """
    if _separators(body) <= MAX_SEPARATORS:
        return False
    # Some of them may be in strings. Without escapes, what is between two quotes is a string.
    plain = body.replace(rb"\\", b"").replace(rb"\"", b"")
    if plain.count(b'"') > 4 * MAX_SEPARATORS + 4:  # a key and a value at most to each
        return True
    return _separators(b"".join(plain.split(b'"')[::2])) > MAX_SEPARATORS


def _separators(text: bytes) -> int:
    return sum(map(text.count, (b"{", b"[", b",")))


def json_object(request: Request) -> dict[str, Any]:
    """Return the JSON object that a service sent.

    Raises UnsupportedMediaType (415) for anything but JSON, ValidationError for other JSON and for
    JSON of more values than any call has a use for.
    """
    if request.mimetype != "application/json":
        raise UnsupportedMediaType
    body = _read(request)
    if len(body) > MAX_BODY and _has_too_many_values(body):
        raise ValidationError({"body": ["Has too many elements."]})
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise ValidationError({"body": ["Is not valid JSON."]}) from None
    if not isinstance(fields, dict):
        raise ValidationError({"body": ["Must be a JSON object."]})
    return fields


def query_fields(request: Request) -> dict[str, Any]:
    """Return the fields of the query string."""
    return _from_urlencoded(request.query_string)


class CutShortError(Exception):
    """An answer ended before its end; what happened is in the log."""


def in_parts(name: str, parts: Iterable[list[Any]]) -> Response:
    """Return a response of a long list under a name, written out while its parts are made.

    So it is never whole in memory, and others get their turn between two parts. The first part is
    made before the response starts: an error there is answered as usual. After an error in a later
    one the connection is closed before the end of the body, which HTTP/1.1 tells its client.
    """
    rest = iter(parts)
    # Of each part only the text is kept while its client takes it, and of the first no longer.
    texts = chain([_elements(next(rest, []))], map(_elements, rest))

    def chunks() -> Iterator[bytes]:
        comma = b""
        yield b'{"%s":[' % name.encode()
        try:
            for text in texts:
                if text:
                    yield comma
                    yield text
                    comma = b","
        except Exception as error:  # of any kind: the status has been sent, only the end can tell
            errors.log_cut_short(error)
            raise CutShortError from None
        yield b'],"success":true}'

    return Response(stream_with_context(chunks()), mimetype="application/json")


def _elements(part: list[Any]) -> bytes:
    return orjson.dumps(part)[1:-1]


def init_app(app: Flask) -> None:
    """Have the app speak JSON by orjson and refuse large bodies."""
    app.json = OrjsonProvider(app)
    app.before_request(_refuse_large_body)
