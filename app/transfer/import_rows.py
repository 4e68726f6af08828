"""One row of an import, checked by our limits: Rocket.Chat's of any release, or our own form."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

from app.identifiers import fresh_id, fresh_name, hash_secret, parse_hash
from app.limits import (
    APN,
    ENVIRONMENTS,
    GCM,
    KINDS,
    MAX_APP_NAME,
    MAX_DEVICE_ID,
    MAX_PUSH_TOKEN,
    MAX_USER_ID,
    PRODUCTION,
    VOIP,
    is_text,
    normalize_apns_token,
)
from app.transfer.mongoexport import parse_date, plain_id


class ImportRow(NamedTuple):
    """A row of the staging table: the columns that COPY, merge and export take, in this order.

    What it is here, import_sql.py and export.py derive from it.
    """

    id: str
    device_id: str
    app_name: str
    token: str
    type: str
    user_id: str
    session_hash: bytes
    enabled: bool
    created_at: datetime
    updated_at: datetime
    environment: str


def placeholder_hash(user_id: str) -> bytes:
    """Return the hash of the placeholder session of a user, for rows without an `authToken`.

    No auth token has this hash: the hashed text has a NUL, which no header can carry.
    """
    return hash_secret(b"push-token-registry: no session\0" + user_id.encode())


def reachable_hash(user_id: str) -> bytes:
    """Return the hash of the session of a user that holds imported rows until it ends.

    It is no auth token's hash either, so that nobody signs in with it.
    """
    return hash_secret(b"push-token-registry: reachable for a time\0" + user_id.encode())


def rows(document: dict[str, Any], *, for_a_time: bool = False) -> Iterator[ImportRow]:
    """Give the rows of a document: one, and one more for the `voipToken` that 8.2 has in it.

    For the rest see `read`.
    """
    row = read(document, for_a_time=for_a_time)
    yield row
    voip_token = document.get("voipToken")
    if row.type == APN and voip_token not in (None, "") and document.get("_id") is not None:
        if not is_text(voip_token, MAX_PUSH_TOKEN):
            raise ValueError(f"voipToken: not a string of 1 to {MAX_PUSH_TOKEN} bytes of UTF-8")
        token = normalize_apns_token(voip_token)
        if token == row.token:
            raise ValueError("voipToken: the same as the token")
        yield row._replace(id=fresh_id(), token=token, type=VOIP)


def device_key(document: dict[str, Any]) -> tuple[Any, ...] | None:
    """Return by what a row of Rocket.Chat's later form is of one device with its VoIP row.

    There each is a row with an `_id` of its own. None for all other forms, and without a session.
    """
    if "tokenType" not in document or document.get("authToken") is None:
        return None
    return document.get("userId"), document.get("appName"), document["authToken"]


def read(document: dict[str, Any], *, for_a_time: bool = False) -> ImportRow:
    """Return the row of a document; ValueError names the field that is wrong.

    With `for_a_time` its session is that of `reachable_hash`, whatever its `authToken`: that one
    may have been signed out long ago.
    """
    kind, token = _push_token(document)
    user_id = _text(document, "userId", MAX_USER_ID)
    created_at, updated_at = _dates(document)
    enabled = document.get("enabled", True)
    if not isinstance(enabled, bool):
        raise ValueError("enabled: not true or false")
    environment = document.get("environment", PRODUCTION)  # only our own export has it
    if environment not in ENVIRONMENTS:
        raise ValueError(f"environment: not one of {' and '.join(ENVIRONMENTS)}")
    has_id = document.get("_id") is not None
    return ImportRow(
        id=fresh_id(),
        device_id=_text(document, "_id", MAX_DEVICE_ID) if has_id else fresh_name(),
        app_name=_text(document, "appName", MAX_APP_NAME),
        token=token,
        type=kind,
        user_id=user_id,
        session_hash=(
            reachable_hash(user_id)
            if for_a_time
            else _session_hash(document.get("authToken"), user_id)
        ),
        enabled=enabled,
        created_at=created_at,
        updated_at=updated_at,
        environment=environment,
    )


def _text(document: dict[str, Any], name: str, limit: int) -> str:
    value = plain_id(document.get(name))
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name}: missing, empty or no string")
    if not is_text(value, limit):
        raise ValueError(f"{name}: over {limit} bytes of UTF-8, or not storable text")
    return value


def _push_token(document: dict[str, Any]) -> tuple[str, str]:
    """Return type and value, which have three forms.

    Rocket.Chat's `token: {type: value}`, or its `tokenType` and `tokenValue`; ours has `type` and
    `token`.
    """
    token = document.get("token")
    if isinstance(token, str):
        kind, value = document.get("type"), token
    elif token is None and "tokenValue" in document:
        kind, value = document.get("tokenType"), document["tokenValue"]
    elif isinstance(token, dict) and len(token) == 1:
        ((kind, value),) = token.items()
    else:
        raise ValueError("token: missing, or neither text nor an object of one type")
    if kind not in KINDS:
        raise ValueError("token: its type is none of apn, gcm and voip")
    if not is_text(value, MAX_PUSH_TOKEN):
        raise ValueError(f"token: not a string of 1 to {MAX_PUSH_TOKEN} bytes of UTF-8")
    return kind, value if kind == GCM else normalize_apns_token(value)


def _dates(document: dict[str, Any]) -> tuple[datetime, datetime]:
    """Return when the row was created and last renewed; the later of updatedAt and _updatedAt."""
    found = {}
    for name in ("createdAt", "updatedAt", "_updatedAt"):
        if document.get(name) is not None:
            try:
                found[name] = parse_date(document[name])
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
    if not found:
        raise ValueError("updatedAt: missing")
    renewed = [found[name] for name in ("updatedAt", "_updatedAt") if name in found]
    updated_at = max(renewed) if renewed else found["createdAt"]
    return found.get("createdAt", updated_at), updated_at


def _session_hash(text: Any, user_id: str) -> bytes:
    if text is None:
        return placeholder_hash(user_id)
    try:
        return parse_hash(text)
    except ValueError as error:
        raise ValueError(f"authToken: {error}") from None
