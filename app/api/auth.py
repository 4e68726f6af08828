"""The guards of the blueprints: sessions of apps, keys of services."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from flask import current_app, g, request

from app import services
from app.api import errors, request_log
from app.database.failures import UnavailableError
from app.identifiers import hash_secret
from app.limits import MAX_USER_ID, is_text
from app.registry import service_keys, sessions

USE_NOTED_FOR = 3600.0  # seconds
USE_RETRY = 60.0  # seconds, after it could not be noted

T = TypeVar("T")
View = TypeVar("View", bound=Callable[..., Any])


class Credentials(NamedTuple):
    """What the headers of an app's request say; not yet checked."""

    token_hash: bytes
    user_id: str


def parse_credentials(auth_token: str, user_id: str) -> Credentials | None:
    """Parse the headers `X-Auth-Token` and `X-User-Id`; None when one cannot be right.

    WSGI hands the bytes of a header over as latin-1.
    """
    try:
        user_id = user_id.encode("latin-1").decode()
    except UnicodeError:
        return None
    if not auth_token or not is_text(user_id, MAX_USER_ID):
        return None
    return Credentials(hash_secret(auth_token.encode("latin-1", "replace")), user_id)


def require_credentials() -> None:
    """Parse the caller's headers into `g.credentials`; 401 when one cannot be right.

    This proves nothing yet: it is only for a view whose statement checks the session.
    """
    headers = request.headers
    found = parse_credentials(headers.get("X-Auth-Token", ""), headers.get("X-User-Id", ""))
    if found is None:
        raise errors.unauthorized(errors.NO_CREDENTIALS)
    g.credentials = found


def requires_scope(scope: str) -> Callable[[View], View]:
    """Mark a view with the scope that a service key must have to call it.

    The guard and the OpenAPI document read the mark.
    """
    if scope not in service_keys.SCOPES:
        raise ValueError(f"no such scope: {scope}")

    def mark(view: View) -> View:
        view.scope = scope  # type: ignore[attr-defined]  # a function may bear it
        return view

    return mark


def require_service_key() -> None:
    """Require a live service key (`Authorization: Bearer`): 401; with the view's scope: 403.

    From here on the log knows the name of the service, and `g.app_names` the apps that the key is
    bound to (None: all).
    """
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    found = None
    if scheme.lower() == "bearer" and key:
        key_hash = hash_secret(key.strip(" \t").encode("latin-1", "replace"))
        found = services.current().retrying(lambda: service_keys.find(key_hash))
    if found is None:
        raise errors.unauthorized("no live service key")
    request.environ[request_log.KEY].service = found["name"]
    g.app_names = found["app_names"]
    _note_use(key_hash)
    view: Any = current_app.view_functions[str(request.endpoint)]
    if view.scope not in found["scopes"]:
        raise errors.forbidden()


def _note_use(key_hash: bytes) -> None:
    """Note in the database that a key is in use: once an hour and worker, not for each request."""
    due, now = services.current().key_uses, time.monotonic()
    if now < due.get(key_hash, now):
        return
    due[key_hash] = now + USE_NOTED_FOR  # before the statement: simultaneous requests write once
    if not services.current().attempted(lambda: service_keys.note_use(key_hash)):
        due[key_hash] = now + USE_RETRY


def checks_session(view: View) -> View:
    """Mark a view whose own statement checks the session, so that it is not asked for twice."""
    view.checks_session = True  # type: ignore[attr-defined]  # a function may bear it
    return view


def require_session_of_view() -> None:
    """Require a valid session, or only its headers before a view that checks it; else 401."""
    view = current_app.view_functions[str(request.endpoint)]
    if getattr(view, "checks_session", False):
        require_credentials()
    else:
        require_session()


def require_session() -> None:
    """Require a valid session, as `g.credentials`; 401 without one."""
    require_credentials()
    token_hash, user_id = g.credentials
    retrying = services.current().retrying
    with_valid_session(
        lambda max_age: retrying(lambda: sessions.is_signed_in(token_hash, user_id, max_age))
    )


def with_valid_session(attempt: Callable[[int | None], T | None]) -> T:
    """Return what `attempt` returns to a caller with a valid session; 401 where that is nothing.

    Its argument is the greatest age of a confirmation (`models.is_valid_session`). Where it finds
    no session and an identity provider decides, that is asked, and `attempt` is run once more.
    """
    shared = services.current()
    max_age = shared.settings.recheck
    result = attempt(max_age)
    if not result and shared.confirmation:
        token_hash, user_id = g.credentials
        secret = request.headers.get("X-Auth-Token", "").encode("latin-1", "replace")
        address = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
        allowed = shared.confirmation.confirm(token_hash, user_id, secret, address[:64])
        if allowed is None:
            raise errors.unauthorized("Rocket.Chat denies the credentials")
        result = attempt(allowed)
        if not result and allowed != max_age:
            # The grace ended in this moment; a caller who was not denied is not signed out.
            raise UnavailableError("the identity provider does not confirm the session in time")
    if not result:
        raise errors.unauthorized(errors.NO_SESSION)
    request.environ[request_log.KEY].user_id = g.credentials.user_id
    return result
