"""The guards: who may call."""

from typing import NamedTuple

from flask import g, request

from app import errors, service_keys, sessions
from app.database import retrying
from app.hashes import hash_secret
from app.schemas import MAX_USER_ID, is_storable


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
    """Let in who shows a live service key (`Authorization: Bearer`); 403 without the scope."""
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    scopes = None
    if scheme.lower() == "bearer" and key:
        key_hash = hash_secret(key.strip().encode("latin-1", "replace"))
        scopes = retrying(lambda: service_keys.scopes_of(key_hash))
    if scopes is None:
        raise errors.unauthorized()
    if scope not in scopes:
        raise errors.forbidden()


def require_session() -> None:
    """Let only live sessions in, as `g.credentials`; 401 for everybody else."""
    require_credentials()
    if not retrying(lambda: sessions.is_signed_in(*g.credentials)):
        raise errors.unauthorized()
