"""The calls of the services that send or announce sessions (design 1.2): one view a call."""

from typing import Any

from flask import Blueprint, current_app, request
from marshmallow import ValidationError

from app import feedback, metrics, push_tokens, schemas, service_schemas, sessions
from app.auth import require_service_key
from app.bodies import json_object
from app.database import committed, retrying
from app.models import UserSession

bp = Blueprint("service_api", __name__, url_prefix="/api/v1")

SCOPES = {
    "look_up_push_tokens": "lookup",
    "list_push_tokens": "lookup",
    "take_feedback": "feedback",
    "put_sessions": "sessions",
    "revoke_sessions": "sessions",
}

Answer = dict[str, Any]


@bp.before_request
def guard() -> None:
    """Let in who has a live key with the call's scope."""
    require_service_key(SCOPES[str(request.endpoint).rpartition(".")[2]])


@bp.post("/push.tokens.lookup")
def look_up_push_tokens() -> Answer:
    """Say under which push tokens up to 1,000 users are reachable."""
    asked = service_schemas.lookup.load(json_object(request))
    shape = {"with_environment": asked.pop("with_environment")}
    rows = retrying(lambda: push_tokens.look_up(**asked))
    return {"tokens": [schemas.dump_push_token(row, **shape) for row in rows], "success": True}


@bp.post("/push.tokens.list")
def list_push_tokens() -> Answer:
    """Give a page of all registrations, and the cursor of the next one."""
    asked = service_schemas.list_page.load(json_object(request))
    shape = {"with_environment": asked.pop("with_environment")}
    rows, last = retrying(lambda: push_tokens.page(**asked))
    cursor = service_schemas.Cursor.of(last) if last else None
    tokens = [schemas.dump_push_token(row, **shape) for row in rows]
    return {"tokens": tokens, "cursor": cursor, "success": True}


@bp.post("/push.tokens.feedback")
def take_feedback() -> Answer:
    """Remove what the push providers say is dead."""
    verdicts = service_schemas.feedback.load(json_object(request))["results"]
    try:
        outcome = committed(lambda: feedback.apply(verdicts))
    except feedback.AheadError as ahead:
        problem = {ahead.field: ["Is more than 5 minutes in the future."]}
        raise ValidationError({"results": {ahead.place: problem}}) from None
    metrics.REMOVED.labels("feedback").inc(outcome.removed)
    return {**outcome._asdict(), "success": True}


@bp.post("/sessions.put")
def put_sessions() -> Answer:
    """Take over sessions that an identity provider announces."""
    announced = service_schemas.put_sessions.load(json_object(request))["sessions"]
    days = current_app.config["SETTINGS"].session_days
    try:
        committed(lambda: sessions.put(announced, days))
    except sessions.ForeignHashError as foreign:
        problem = {"hashedToken": ["Is known for another user."]}
        raise ValidationError({"sessions": dict.fromkeys(foreign.places, problem)}) from None
    return {"sessions": len(announced), "success": True}


@bp.post("/sessions.revoke")
def revoke_sessions() -> Answer:
    """End one, all other or all sessions of a user, and what was registered in them."""
    asked = service_schemas.revoke_sessions.load(json_object(request))
    which = UserSession.user_id == asked["user_id"]
    if "token_hash" in asked:
        which &= UserSession.token_hash == asked["token_hash"]
    if "except_hashes" in asked:
        which &= UserSession.token_hash.not_in(asked["except_hashes"])
    ended, removed = committed(lambda: sessions.end(which))
    metrics.REMOVED.labels("revoked").inc(removed)
    return {"sessions": ended, "tokens": removed, "success": True}
