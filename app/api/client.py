"""Calls for the apps: one view a call."""

from typing import Any

from flask import Blueprint, g, request
from marshmallow import ValidationError
from werkzeug.exceptions import BadRequest

from app import metrics, services
from app.api import errors, schemas
from app.api.auth import (
    checks_session,
    require_session,
    require_session_of_view,
    with_valid_session,
)
from app.api.bodies import body_fields, query_fields
from app.models import UserSession
from app.registry import push_tokens, sessions
from app.registry.registration import Registration

bp = Blueprint("client", __name__, url_prefix="/api/v1")
bp.before_request(require_session_of_view)

Answer = dict[str, Any]


@bp.post("/push.token")
@checks_session
def register_push_token() -> Answer:
    """Bind a device's push token to the signed-in user, for as long as the session lives.

    Under the server of app/server most registrations are answered before Flask sees them
    (fast_path.py), by the same schema and statement.
    """
    try:
        fields = schemas.load_registration(body_fields(request))
    except (ValidationError, BadRequest):
        require_session()  # a 401 hides every 400
        raise
    asked = Registration(*g.credentials, **fields)
    registered = with_valid_session(
        lambda max_age: services.current().committed(
            lambda: push_tokens.register(asked._replace(max_age=max_age))
        )
    )
    metrics.count_registrations([registered.outcome])
    return {"result": schemas.dump_push_token(registered.row), "success": True}


@bp.get("/push.token")
def list_push_tokens() -> Answer:
    """List the signed-in user's registrations."""
    rows = push_tokens.of_user(g.credentials.user_id)
    return {"tokens": [schemas.dump_push_token(row) for row in rows], "success": True}


@bp.delete("/push.token")
def remove_push_token() -> Answer:
    """Remove the signed-in user's registrations of a push token, in every app."""
    asked = query_fields(request) | body_fields(request)
    fields = schemas.remove_push_token.load(asked)
    removed = services.current().committed(
        lambda: push_tokens.remove(g.credentials.user_id, fields["token"])
    )
    if not removed:
        raise errors.not_found()
    metrics.REMOVED.labels("deleted").inc(removed)
    return {"success": True}


@bp.route("/logout", methods=["GET", "POST"])
def log_out() -> Answer:
    """End the calling session and its registrations.

    Rocket.Chat serves both methods, and its own SDK sends GET.
    """
    own = UserSession.token_hash == g.credentials.token_hash
    _, removed = services.current().committed(lambda: sessions.end(own))
    metrics.REMOVED.labels("logout").inc(removed)
    return {"status": "success", "data": {"message": "You've been logged out!"}}


@bp.post("/users.removeOtherTokens")
def log_out_others() -> Answer:
    """End all other sessions of the caller and their registrations."""
    user_id, own = g.credentials.user_id, g.credentials.token_hash
    others = (UserSession.user_id == user_id) & (UserSession.token_hash != own)
    _, removed = services.current().committed(lambda: sessions.end(others))
    metrics.REMOVED.labels("logout").inc(removed)
    return {"success": True}
