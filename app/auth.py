"""The guards: who may call."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

from flask import current_app, g, request

from app import errors, service_keys, sessions
from app.database import retrying
from app.hashes import hash_secret
from app.schemas import MAX_USER_ID, is_storable

T = TypeVar("T")


class Credentials(NamedTuple):
    """What a caller shows: not yet proof of anything."""

    token_hash: bytes
    user_id: str


def credentials(auth_token: str, user_id: str) -> Credentials:
    """Take the headers `X-Auth-Token` and `X-User-Id`; 401 when one cannot be right.

    WSGI hands the bytes of a header over as latin-1.
    """
    try:
        user_id = user_id.encode("latin-1").decode()
    except UnicodeError:
        raise errors.unauthorized() from None
    if not auth_token or not user_id or not is_storable(user_id, MAX_USER_ID):
        raise errors.unauthorized()
    return Credentials(hash_secret(auth_token.encode("latin-1", "replace")), user_id)


def require_credentials() -> None:
    """Read the caller's headers into `g.credentials`; 401 when one cannot be right.

    This lets in whoever has both headers: only for a view that has the database judge them.
    """
    headers = request.headers
    g.credentials = credentials(headers.get("X-Auth-Token", ""), headers.get("X-User-Id", ""))


def require_service_key(scope: str) -> None:
    """Let in who shows a live service key (`Authorization: Bearer`); 403 without the scope.

    Whose key it is, is `g.service` from here on.
    """
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    found = None
    if scheme.lower() == "bearer" and key:
        key_hash = hash_secret(key.strip().encode("latin-1", "replace"))
        found = retrying(lambda: service_keys.find(key_hash))
    if found is None:
        raise errors.unauthorized()
    g.service, scopes = found
    if scope not in scopes:
        raise errors.forbidden()


def require_session() -> None:
    """Let only live sessions in, as `g.credentials`; 401 for everybody else."""
    require_credentials()
    token_hash, user_id = g.credentials
    let_in(lambda within: retrying(lambda: sessions.is_signed_in(token_hash, user_id, within)))


def let_in(attempt: Callable[[int | None], T | None]) -> T:
    """Return what `attempt` gives to whoever has a session that lets in; 401 where it is nothing.

    It is told how old a confirmation may be (`models.lets_in`). Where it finds no session, and an
    identity provider decides, that one is asked (identity.py), and it tries once more.
    """
    identity = current_app.extensions.get("identity")
    within = current_app.config["SETTINGS"].recheck
    given = attempt(within)
    if not given and identity:
        secret = request.headers.get("X-Auth-Token", "").encode("latin-1", "replace")
        allowed = identity.confirm(*g.credentials, secret)
        given = attempt(allowed)
        if not given and allowed != within:
            # The grace is over in this moment: who was not denied is not told to sign in again.
            raise errors.UnavailableError("nobody confirms the session")
    if not given:
        raise errors.unauthorized()
    return given
