"""The one place that shapes error JSON."""

import logging
import traceback
from collections.abc import Iterator
from http import HTTPStatus

import orjson
import psycopg
from flask import Flask, Response
from marshmallow import ValidationError
from marshmallow.exceptions import SCHEMA
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import HTTPException

from app.database.failures import UnavailableError, describe, is_unavailable, original

log = logging.getLogger(__name__)

RETRY_AFTER = 1  # seconds; a phone that comes back later than this loses nothing

TEXTS = {
    404: "API endpoint does not exist",
    405: "Method not allowed",
    413: "Request entity too large",
    415: "Unsupported media type",
    500: "Internal server error",
    503: "Service unavailable",
}


class ApiError(HTTPException):
    """An error whose body the API's contract spells out."""

    def __init__(self, code: int, body: dict[str, object], **headers: str):
        super().__init__()
        self.code: int = code
        self.body = body
        self.headers = headers


def unauthorized() -> ApiError:
    """Make the 401, which never says what is wrong with the credentials."""
    message = "You must be logged in to do this."
    return ApiError(401, {"status": "error", "message": message})


def forbidden() -> ApiError:
    """Make the 403 of a service key without the call's scope."""
    return ApiError(403, {"success": False, "error": "unauthorized"})


def not_found() -> ApiError:
    """Make the 404 of a call whose thing is not there."""
    return ApiError(404, {"success": False, "error": "Resource not found"})


def invalid(message: str, error_type: str) -> ApiError:
    """Make the 400 of a field, the way Rocket.Chat's Meteor.Error reads on the wire."""
    return ApiError(
        400, {"success": False, "error": f"{message} [{error_type}]", "errorType": error_type}
    )


def refused(code: int, text: str | None = None, **headers: str) -> ApiError:
    """Make the error of a status that has no body of its own in the contract."""
    text = text or TEXTS.get(code) or HTTPStatus(code).phrase
    return ApiError(code, {"success": False, "error": text}, **headers)


def unavailable() -> ApiError:
    """Make the 503, which says when to come back."""
    return refused(503, **{"Retry-After": str(RETRY_AFTER)})


def _answer(error: ApiError) -> Response:
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
    path, message = [], error.normalized_messages()  # type: ignore[no-untyped-call]
    while isinstance(message, dict):
        name, message = next(iter(message.items()))
        if name != SCHEMA:  # what is wrong with an object as a whole
            path.append(str(name))
    if isinstance(message[0], tuple):
        text, error_type = message[0]
        return text, error_type
    return ": ".join(filter(None, (".".join(path), message[0]))), "error-invalid-params"


def _handle_validation_error(error: ValidationError) -> Response:
    """Answer for the first field that failed."""
    return _answer(invalid(*first_problem(error)))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Give an error and those that it came from, as a traceback would show them."""
    seen: set[int] = set()
    while error and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_away(error: Exception) -> bool:
    return isinstance(error, UnavailableError) or is_unavailable(error)


def log_exception(error: Exception, **extra: object) -> None:
    """Write down what happened, without the text of an error of the database.

    That text repeats rows and parameters, push tokens and hashes among them; so may that of an
    error that it led to. `extra` are further fields of the line.
    """
    cause = original(error)
    if _is_away(error):
        log.warning("unavailable: %s", describe(cause), extra=extra)
    elif any(isinstance(one, SQLAlchemyError | psycopg.Error) for one in _causes(error)):
        where = "".join(traceback.format_tb(error.__traceback__))
        sqlstate = getattr(cause, "sqlstate", None) or ""
        log.error("database error %s %s\n%s", type(cause).__name__, sqlstate, where, extra=extra)
    else:
        log.error("unexpected error", exc_info=error, extra=extra)


def of_exception(error: Exception, **extra: object) -> ApiError:
    """Make a 503 when the database is away, else a 500; what happened goes to the log only."""
    log_exception(error, **extra)
    return unavailable() if _is_away(error) else refused(500)


def init_app(app: Flask) -> None:
    """Have every error of the app answered in JSON."""
    app.register_error_handler(HTTPException, _handle_http_exception)
    app.register_error_handler(ValidationError, _handle_validation_error)
    app.register_error_handler(Exception, lambda error: _answer(of_exception(error)))
