"""Calls for the services that send, and for those that announce sessions: one view a call."""

from typing import Any

from flask import Blueprint, Response, g, request
from marshmallow import ValidationError

from app import metrics, services
from app.api import schemas, service_schemas, verdict_schemas
from app.api.auth import require_service_key, requires_scope
from app.api.bodies import in_parts, json_object
from app.models import UserSession
from app.registry import feedback, push_tokens, sessions

bp = Blueprint("service", __name__, url_prefix="/api/v1")
bp.before_request(require_service_key)

Answer = dict[str, Any]


def _only_apps_of_key() -> dict[str, list[str]]:
    """Return how a question is narrowed to the apps that the caller's key is bound to."""
    return {} if g.app_names is None else {"app_names": g.app_names}


@bp.post("/push.tokens.lookup")
@requires_scope("lookup")
def look_up_push_tokens() -> Answer | Response:
    """Look up the registrations of up to 1,000 users."""
    asked = service_schemas.lookup.load(json_object(request)) | _only_apps_of_key()
    with_environment = asked.pop("with_environment")
    user_ids = sorted(set(asked.pop("user_ids")))  # as COLLATE "C" sorts: by code point

    def found(user_ids: list[str]) -> list[Answer] | None:
        # Committed, so that no connection is held while a client reads slowly.
        rows = services.current().read(lambda: push_tokens.look_up(user_ids, **asked))
        if rows is None:
            return None
        return [schemas.dump_push_token(row, with_environment=with_environment) for row in rows]

    tokens = found(user_ids)
    if tokens is not None:
        return {"tokens": tokens, "success": True}
    size = push_tokens.LOOKUP_USERS
    parts = (user_ids[start : start + size] for start in range(0, len(user_ids), size))
    return in_parts("tokens", (found(part) or [] for part in parts))


@bp.post("/push.tokens.list")
@requires_scope("lookup")
def list_push_tokens() -> Answer:
    """List all registrations, page by page."""
    asked = service_schemas.list_page.load(json_object(request)) | _only_apps_of_key()
    shape = {"with_environment": asked.pop("with_environment")}
    rows, last = services.current().read(lambda: push_tokens.page(**asked))
    cursor = service_schemas.Cursor.of(last) if last else None
    tokens = [schemas.dump_push_token(row, **shape) for row in rows]
    return {"tokens": tokens, "cursor": cursor, "success": True}


@bp.post("/push.tokens.feedback")
@requires_scope("feedback")
def take_feedback() -> Answer:
    """Report what the push providers said, and remove the push tokens that are dead."""
    asked = verdict_schemas.feedback.load(json_object(request))
    judged = services.current().committed(lambda: feedback.apply(asked["results"], g.app_names))
    answer = verdict_schemas.dump(judged, each=asked["each"])
    metrics.REMOVED.labels("feedback").inc(answer["removed"])
    return answer


@bp.post("/sessions.put")
@requires_scope("sessions")
def put_sessions() -> Answer:
    """Announce the sessions of an identity provider.

    Raises ValidationError for hashes that are known for another user.
    """
    announced = service_schemas.put_sessions.load(json_object(request))["sessions"]
    days = services.current().settings.session_days
    try:
        services.current().committed(lambda: sessions.put(announced, days))
    except sessions.ForeignHashError as foreign:
        problem = {"hashedToken": ["Is known for another user."]}
        raise ValidationError({"sessions": dict.fromkeys(foreign.places, problem)}) from None
    return {"sessions": len(announced), "success": True}


@bp.post("/sessions.revoke")
@requires_scope("sessions")
def revoke_sessions() -> Answer:
    """End one, all other or all sessions of a user, with their registrations."""
    asked = service_schemas.revoke_sessions.load(json_object(request))
    which = UserSession.user_id == asked["user_id"]
    if "token_hash" in asked:
        which &= UserSession.token_hash == asked["token_hash"]
    if "except_hashes" in asked:
        which &= UserSession.token_hash.not_in(asked["except_hashes"])
    ended, removed = services.current().committed(lambda: sessions.end(which))
    metrics.REMOVED.labels("revoked").inc(removed)
    return {"sessions": ended, "tokens": removed, "success": True}
