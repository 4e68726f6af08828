"""The one place that shapes error JSON."""

import logging
from http import HTTPStatus

import orjson
from flask import Flask, Response, request
from marshmallow import ValidationError
from marshmallow.exceptions import SCHEMA
from werkzeug.exceptions import HTTPException

from app import log
from app.api import request_log
from app.api.request_log import RequestRecord
from app.database.failures import UnavailableError, describe, is_unavailable, original

_log = logging.getLogger(__name__)

RETRY_AFTER = 1  # seconds; a phone that comes back later than this loses nothing

TEXTS = {
    404: "API endpoint does not exist",
    405: "Method not allowed",
    413: "Request entity too large",
    415: "Unsupported media type",
    500: "Internal server error",
    503: "Service unavailable",
}
# What the log calls an error whose answer has no `errorType`.
TYPES = {
    400: "bad-request",
    401: "unauthorized",
    403: "forbidden",
    404: "not-found",
    405: "wrong-method",
    408: "too-slow",
    413: "too-large",
    414: "uri-too-long",
    415: "wrong-media-type",
    431: "head-too-large",
    500: "internal-error",
    503: "unavailable",
}


# Why credentials are refused, for the log only.
NO_CREDENTIALS = "X-Auth-Token or X-User-Id is missing, or cannot be right"
NO_SESSION = "no live session of this user has this auth token"


class ApiError(HTTPException):
    """An error whose body the API's contract spells out; `reason` is for the log only."""

    def __init__(
        self, code: int, body: dict[str, object], reason: str | None = None, **headers: str
    ):
        super().__init__()
        self.code: int = code
        self.reason = reason
        self.body = body
        self.headers = headers


def unauthorized(reason: str) -> ApiError:
    """Make the 401, which never says what is wrong with the credentials; the log does."""
    message = "You must be logged in to do this."
    return ApiError(401, {"status": "error", "message": message}, reason)


def forbidden() -> ApiError:
    """Make the 403 of a service key without the call's scope."""
    reason = "the key lacks the scope of the call"
    return ApiError(403, {"success": False, "error": "unauthorized"}, reason)


def not_found() -> ApiError:
    """Make the 404 of a call whose thing is not there."""
    return ApiError(404, {"success": False, "error": "Resource not found"})


def invalid(message: str, error_type: str) -> ApiError:
    """Make the 400 of a field, the way Rocket.Chat's Meteor.Error reads on the wire."""
    body = {"success": False, "error": f"{message} [{error_type}]", "errorType": error_type}
    return ApiError(400, body, message)


def refused(code: int, text: str | None = None, **headers: str) -> ApiError:
    """Make the error of a status that has no body of its own in the contract."""
    text = text or TEXTS.get(code) or HTTPStatus(code).phrase
    return ApiError(code, {"success": False, "error": text}, **headers)


def unavailable() -> ApiError:
    """Make the 503, which says when to come back."""
    return refused(503, **{"Retry-After": str(RETRY_AFTER)})


def note(record: RequestRecord | None, error: ApiError) -> None:
    """Note for the request's line in the log what it was refused for."""
    if record is not None and record.error_type is None:
        record.error_type = str(error.body.get("errorType") or TYPES.get(error.code, "refused"))
        record.reason = error.reason or str(error.body.get("error", "")) or None


def _answer(error: ApiError) -> Response:
    note(request.environ.get(request_log.KEY), error)
    body = orjson.dumps(error.body)
    return Response(body, error.code, error.headers, mimetype="application/json")


def _handle_http_exception(error: HTTPException) -> Response:
    if isinstance(error, ApiError):
        return _answer(error)
    kept = {name: value for name, value in error.get_headers() if name in ("Allow", "Retry-After")}
    code = error.code or 500
    return _answer(refused(code, TEXTS.get(code) or error.name, **kept))


def first_problem(error: ValidationError) -> tuple[str, str]:
    """Return text and error type of the first field that failed.

    A message is a pair (text, error type) where the contract has a text of its own for the field,
    else marshmallow's text, which the path of the field goes before.
    """
    path, message = [], error.normalized_messages()
    while isinstance(message, dict):
        name, message = next(iter(message.items()))
        if name != SCHEMA:  # what is wrong with an object as a whole
            path.append(str(name))
    if isinstance(message[0], tuple):
        text, error_type = message[0]
        return text, error_type
    return ": ".join(filter(None, (".".join(path), message[0]))), "error-invalid-params"


def _handle_validation_error(error: ValidationError) -> Response:
    """Answer for the first field that failed; without an error type where it has none."""
    text, error_type = first_problem(error)
    return _answer(invalid(text, error_type) if error_type else refused(400, text))


def _is_away(error: Exception) -> bool:
    return isinstance(error, UnavailableError) or is_unavailable(error)


def of_exception(error: Exception, record: RequestRecord | None) -> ApiError:
    """Make a 503 when the database is away, else a 500; what happened goes to the log only.

    That is the names of errors, and of a 500 the trace, without texts: those of the database
    repeat rows and parameters, push tokens and hashes among them, and so may any other.
    """
    cause = original(error)
    made = unavailable() if _is_away(error) else refused(500)
    made.reason = describe(cause) if made.code == 503 else _name(cause)
    note(record, made)
    if record is not None and made.code == 500:
        record.trace = log.trace(error)
    return made


def _name(error: BaseException) -> str:
    return f"{type(error).__name__} {getattr(error, 'sqlstate', None) or ''}".strip()


def log_cut_short(error: Exception) -> None:
    """Write a line on an answer that ended before its end, when its request's line is written."""
    cause = original(error)
    is_away = _is_away(error)
    line = {"error_type": "cut-short", "reason": describe(cause) if is_away else _name(cause)}
    if not is_away:
        line["trace"] = log.trace(error)
    level = logging.WARNING if is_away else logging.ERROR
    _log.log(level, "an answer was cut short", extra=line)


def init_app(app: Flask) -> None:
    """Have every error of the app answered in JSON."""
    app.register_error_handler(HTTPException, _handle_http_exception)
    app.register_error_handler(ValidationError, _handle_validation_error)
    app.register_error_handler(Exception, _handle_exception)


def _handle_exception(error: Exception) -> Response:
    return _answer(of_exception(error, request.environ.get(request_log.KEY)))
