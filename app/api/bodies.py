"""How a body or a query becomes a mapping of fields."""

import json
from typing import Any
from urllib.parse import parse_qsl

import orjson
from flask import Flask, Request, Response, request
from flask.json.provider import JSONProvider
from marshmallow import ValidationError
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge, UnsupportedMediaType

MAX_BODY = 64 * 1024  # bytes
# 1,000 verdicts of the longest names and values, every character as a JSON escape of 6 bytes.
# Only who has a service key is listened to for so long.
MAX_SERVICE_BODY = 16 * 1024 * 1024
SERVICE_PATHS = frozenset(
    f"/api/v1/{name}"
    for name in (
        "push.tokens.lookup",
        "push.tokens.list",
        "push.tokens.feedback",
        "sessions.put",
        "sessions.revoke",
    )
)


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


def _from_json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        # The standard library also reads lone surrogates and huge numbers, so that the error
        # names the field that has them instead of the first one.
        try:
            return json.loads(body.decode())
        except (ValueError, RecursionError):
            return {}


def _from_urlencoded(text: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(text.decode(), keep_blank_values=True, errors="strict")
    except ValueError:
        return {}
    return dict(pairs)


def _refuse_large_body() -> None:
    """Answer 413 to every call whose body is over its limit, without reading it."""
    if (request.content_length or 0) > limit_of(request.path):
        raise RequestEntityTooLarge


def limit_of(path: str) -> int:
    """Return the bytes that the body of a call may have."""
    return MAX_SERVICE_BODY if path in SERVICE_PATHS else MAX_BODY


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


def json_object(request: Request) -> dict[str, Any]:
    """Return the JSON object that a service sent.

    Raises UnsupportedMediaType (415) for anything but JSON, ValidationError for other JSON.
    """
    if request.mimetype != "application/json":
        raise UnsupportedMediaType
    try:
        fields = orjson.loads(_read(request))
    except orjson.JSONDecodeError:
        raise ValidationError({"body": ["Is not valid JSON."]}) from None
    if not isinstance(fields, dict):
        raise ValidationError({"body": ["Must be a JSON object."]})
    return fields


def query_fields(request: Request) -> dict[str, Any]:
    """Return the fields of the query string."""
    return _from_urlencoded(request.query_string)


def init_app(app: Flask) -> None:
    """Have the app speak JSON by orjson and refuse large bodies."""
    app.json = OrjsonProvider(app)
    app.before_request(_refuse_large_body)
