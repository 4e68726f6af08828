"""The calls of the apps (design 1.1): one view a call."""

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, current_app, g, request
from marshmallow import ValidationError

from app import errors, metrics, push_tokens, schemas, sessions
from app.auth import let_in, require_credentials, require_session
from app.bodies import body_fields, query_fields
from app.database import committed
from app.models import UserSession
from app.registrar import Registrar, Registration
from app.rotation import register_device

bp = Blueprint("client_api", __name__, url_prefix="/api/v1")
bp.before_request(require_session)

# The hot path: the statement that registers also authenticates.
hot_bp = Blueprint("registration", __name__, url_prefix="/api/v1")
hot_bp.before_request(require_credentials)

Answer = dict[str, Any]


@hot_bp.post("/push.token")
def register_push_token() -> Answer:
    """Bind a device's push token to the signed-in user, for as long as the session lives."""
    try:
        fields = schemas.register_push_token.load(body_fields(request))
    except ValidationError:
        require_session()  # a 401 hides every 400
        raise
    device_id = fields.pop("device_id")
    asked = Registration(*g.credentials, **fields)
    row = let_in(lambda within: _register(asked, device_id, within))
    return {"result": schemas.dump_push_token(row), "success": True}


def _register(
    asked: Registration, device_id: str | None, within: int | None
) -> Mapping[Any, Any] | None:
    """Register with a session that lets in (`models.lets_in`); None where there is none."""
    if device_id is None:
        registrar: Registrar = current_app.extensions["registrar"]
        if within != registrar.within:
            registrar = current_app.extensions["grace_registrar"]
        return registrar.register(asked)
    registered = committed(lambda: register_device(asked, device_id, within))
    if registered is None:
        return None
    row, user_before = registered
    metrics.count_registrations([metrics.outcome(asked.user_id, user_before)])
    return row


@bp.get("/push.token")
def list_push_tokens() -> Answer:
    """List the signed-in user's registrations, the latest renewed first."""
    rows = push_tokens.of_user(g.credentials.user_id)
    return {"tokens": [schemas.dump_push_token(row) for row in rows], "success": True}


@bp.delete("/push.token")
def remove_push_token() -> Answer:
    """Remove the signed-in user's registrations of a push token, in every app."""
    asked = query_fields(request) | body_fields(request)
    fields = schemas.remove_push_token.load(asked)
    removed = committed(lambda: push_tokens.remove(g.credentials.user_id, fields["token"]))
    if not removed:
        raise errors.not_found()
    metrics.REMOVED.labels("deleted").inc(removed)
    return {"success": True}


@bp.post("/logout")
def log_out() -> Answer:
    """End the calling session and its registrations."""
    own = UserSession.token_hash == g.credentials.token_hash
    _, removed = committed(lambda: sessions.end(own))
    metrics.REMOVED.labels("logout").inc(removed)
    return {"status": "success", "data": {"message": "You've been logged out!"}}
