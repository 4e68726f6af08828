"""The short way of `POST push.token`, past Flask's machinery to the same schema and registrar.

Millions of phones make this one request, and Flask's contexts, matching and response objects are
two thirds of what it costs in Python: 110 µs through the view, 38 µs here (one process, without
the statement). Only a plain registration is served here; whatever else it is, the view in
client_api.py takes it from the beginning, so no rule of the API is written down twice.
"""

from collections.abc import Iterable
from io import BytesIO
from typing import TYPE_CHECKING, Any

import orjson
from flask import Flask
from marshmallow import ValidationError

from app.api import errors, request_log, schemas
from app.api.auth import parse_credentials
from app.api.bodies import MAX_BODY
from app.registry.registration import Registration
from app.server.group_commit import Registrar

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

METHOD, PATH = "POST", "/api/v1/push.token"


class Service(Flask):
    """A Flask app with a short way for registrations."""

    def wsgi_app(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        """Answer a request (WSGI)."""
        request_id = request_log.begin(environ)
        if environ["PATH_INFO"] == PATH and environ["REQUEST_METHOD"] == METHOD:
            try:
                answer = register(self.extensions["push_registry"].registrar, environ)
            except Exception as error:
                with self.request_context(environ):
                    answered = self.finalize_request(self.handle_user_exception(error))
                    return answered(environ, start_response)
            if answer is not None:
                user_id, body = answer
                headers = [
                    ("Content-Type", "application/json"),
                    ("Content-Length", str(len(body))),
                    ("X-Request-Id", request_id),
                ]
                request_log.end(environ, PATH, 200, user_id)
                start_response("200 OK", headers)
                return [body]
        return super().wsgi_app(environ, start_response)


def register(registrar: Registrar, environ: "WSGIEnvironment") -> tuple[str, bytes] | None:
    """Register a push token; return its user and the body, or None if the view is to take it.

    Raises the errors of the view where the request is plain.
    """
    if environ.get("CONTENT_TYPE", "").partition(";")[0] != "application/json":
        return None
    length = environ.get("CONTENT_LENGTH", "")
    if not length.isdecimal() or int(length) > MAX_BODY:
        return None
    fields = _fields(environ, int(length))
    if fields is None:
        return None
    caller = parse_credentials(
        environ.get("HTTP_X_AUTH_TOKEN", ""), environ.get("HTTP_X_USER_ID", "")
    )
    if caller is None:
        raise errors.unauthorized()
    row = registrar.register(Registration(*caller, **fields))
    if row is None:
        if registrar.max_age is not None:
            return None  # the view asks the identity provider
        raise errors.unauthorized()
    return caller.user_id, orjson.dumps({"result": schemas.dump_push_token(row), "success": True})


def _fields(environ: "WSGIEnvironment", length: int) -> dict[str, Any] | None:
    """Return the validated fields, None if they are not valid."""
    try:
        body = environ["wsgi.input"].read(length)
    except OSError:
        body = b""
    environ["wsgi.input"] = BytesIO(body)  # for the view
    if len(body) < length:
        return None
    try:
        fields: dict[str, Any] = schemas.register_push_token.load(orjson.loads(body))
    except (orjson.JSONDecodeError, ValidationError):
        return None
    return fields
