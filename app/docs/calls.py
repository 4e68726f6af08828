"""What the OpenAPI document says of each call beside its schema: words, examples, answers."""

from dataclasses import dataclass
from typing import Any

from marshmallow import Schema

from app.api import schemas, service_schemas, verdict_schemas
from app.version import VERSION

INTRODUCTION = """\
Apps register the push token under which Apple (APNs) or Google (FCM) reaches a device; services
that send ask here who is reachable where. A registration belongs to the login session in which it
was made: the last sign-in on a device owns it, and it is gone when that session ends.

**Try a call:** press *Authorize*, paste user id and auth token of a session, and *Try it out*.
The auth token is what an app got when its user signed in: `data.authToken` of Rocket.Chat's
`POST /api/v1/login` where Rocket.Chat's sessions are known here. On the registry's host
`push-tokens sessions issue USER_ID` makes a session and prints its auth token; a service key comes
from `push-tokens service-keys issue NAME --scope lookup`.

Every answer is JSON, errors too. The session is checked first, then `id`, `type`, `value`,
`appName`, `environment` and `voipToken`; the first that fails answers. Unknown fields are ignored.
Lengths are bytes of UTF-8.
"""

TAGS = {
    "Apps": "A phone calls these with `X-User-Id` and `X-Auth-Token` of a live session.",
    "Services": "Services that send, or that announce sessions, call these with a service key:"
    " `Authorization: Bearer …`. The key needs the scope that the call names.",
    "Operation": "For load balancers, Prometheus and readers of this page.",
}

USER, APP, VALUE = "rbAXPnMktTFbNpwtJ", "chat.example.android", "eRcg8wFxT0:APA91bH2yZ8K6qLw"
HASH = "n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg="
CURSOR = "YWZ0ZXI6WlN3V0w5VGZYQ0FDR1pSYXA="

# A name means the same in every call.
WORDS: dict[str, tuple[str, Any]] = {
    "_id": ("Names the registration; with `id`, the device's own.", "ZSwWL9TfXCACGZRap"),
    "appName": ("The app, usually its bundle id.", APP),
    "count": ("At most so many on a page.", 100),
    "credentialsValid": ("The sender knows that its credentials are right.", False),
    "createdAt": ("When it was first registered.", "2026-11-24T00:14:20.504Z"),
    "cursor": ("From the page before; the last page has null.", CURSOR),
    "each": ("The answer says of each verdict what became of it, in `results`.", False),
    "enabled": ("Always true.", True),
    "environment": (
        "`production` or `sandbox`: which of APNs' gateways knows the push token. Senders see it;"
        " left out by an app, it is `production`.",
        "production",
    ),
    "environmentRight": ("The sender asked the gateway that `environment` names.", False),
    "error": ("FCM's error code, its error object, or firebase-admin's code.", "UNREGISTERED"),
    "exceptHashedTokens": ("All sessions of the user but these.", [HASH]),
    "expiresAt": (
        "Left out: the service's usual life of a session; null: never.",
        "2027-02-22T00:00:00Z",
    ),
    "hashedToken": ("base64 of the SHA-256 of the auth token.", HASH),
    "id": (
        "Names the device within its user and app, so that its next push token takes the place of"
        " this one: Android's `ANDROID_ID`, on iOS a UUID that the app keeps.",
        "3f2a9c41d07be586",
    ),
    "payloadValid": ("The sender knows that the payload was right.", False),
    "provider": ("Who said it; or the type of push token, as a lookup shows it.", "fcm"),
    "reason": ("APNs' reason.", "Unregistered"),
    "response": ("The provider's body as it came, an object or its text.", {"reason": "Gone"}),
    "sentAt": ("When the push was sent; at most 5 minutes ahead.", "2026-11-24T08:00:00Z"),
    "status": (
        "The provider's HTTP status, also in digits; 0: none came. Without it `error`, `reason` or"
        " `response` decides.",
        404,
    ),
    "timestamp": (
        "APNs' own moment, in ms since 1970 or ISO 8601; at most 5 minutes ahead. One before 2015"
        " counts as none.",
        1795507200000,
    ),
    "token": ("The push token.", VALUE),
    "type": (
        "`apn` for Apple, `gcm` for Google. Senders may ask for `voip`, Apple's for calls, too;"
        " without a type they get the other two.",
        "gcm",
    ),
    "updatedAt": ("When it was last registered.", "2026-11-24T00:14:20.504Z"),
    "updatedSince": ("Only those registered since.", "2026-11-01T00:00:00Z"),
    "userId": ("The user's id, as its provider calls it.", USER),
    "userIds": ("Whose registrations.", [USER]),
    "voipToken": (
        "A second push token of the same iOS device, for calls; needs `id`. Left out, the device's"
        ' former one is gone. Senders find it by `"type":"voip"`; answers to apps are without.',
        "8f14e45fceea167a5a36dedd4bea2543",
    ),
    "withEnvironment": ("Each registration also says its `environment`.", False),
    "value": ("The push token; an `apn` one of hex digits is stored in lower case.", VALUE),
}

REGISTRATION = {
    "token": {"gcm": VALUE},
    **{name: WORDS[name][1] for name in ("appName", "userId", "enabled")},
    **{name: WORDS[name][1] for name in ("createdAt", "updatedAt", "_id")},
}


@dataclass(frozen=True)
class Call:
    """What the code does not say of a call; `schema` checks its body.

    Who may call it stands at the view and its blueprint, its summary is the view's docstring.
    """

    tag: str
    answer: str  # the name of the schema of what is good, or the content type of what is not JSON
    example: Any = None  # of it
    schema: type[Schema] | None = None
    body: Any = None
    wrong: tuple[tuple[Any, str, str], ...] = ()  # a body, and the text and code of its 400
    more: tuple[str, ...] = ()  # statuses beside those that every call has
    description: str = ""
    status: str = "200"  # of what is good


def _param(name: str, middle: str, body: dict[str, Any]) -> tuple[Any, str, str]:
    code = {"value": "token"}.get(name, name)
    return body, f'The required "{name}" body param is {middle}.', f"error-{code}-param-not-valid"


_BODY = {"type": "gcm", "value": VALUE, "appName": APP}
_VERDICT = {
    **{"appName": APP, "value": VALUE, "provider": "fcm", "status": 404},
    **{"error": "UNREGISTERED", "sentAt": "2026-11-24T08:00:00Z"},
}
_PARAMS = "error-invalid-params"
_MISSING = "Missing data for required field."
_TOKENS = {"tokens": [REGISTRATION], "success": True}
_ENDED = {"sessions": 1, "tokens": 0, "success": True}

CALLS: dict[str, Call] = {
    "client.register_push_token": Call(
        "Apps",
        "Registered",
        {"result": REGISTRATION, "success": True},
        schemas.RegisterPushToken,
        _BODY,
        (
            _param("type", "missing or invalid", _BODY | {"type": "fcm"}),
            _param("value", "missing or invalid", _BODY | {"value": ""}),
            _param("appName", "missing or invalid", {"type": "gcm", "value": VALUE}),
            _param("id", "invalid", _BODY | {"id": 7}),
            (
                _BODY | {"environment": "dev"},
                'The "environment" body param is invalid.',
                "error-environment-param-not-valid",
            ),
        ),
        description="At every start of the app. Doing it again is a refresh: `_id` and"
        " `createdAt` stay. A push token that another user had registered is now yours.",
    ),
    "client.list_push_tokens": Call(
        "Apps",
        "Listed",
        _TOKENS,
        description="The 100 latest renewed, the latest first.",
    ),
    "client.remove_push_token": Call(
        "Apps",
        "Done",
        {"success": True},
        schemas.RemovePushToken,
        {"token": VALUE},
        (_param("token", "missing or invalid", {"token": ""}),),
        ("404",),
        "Yours, in every app. A proxy may strip the body of a DELETE: then `?token=` counts,"
        " and no body is needed.",
    ),
    "client.log_out": Call(
        "Apps",
        "LoggedOut",
        {"status": "success", "data": {"message": "You've been logged out!"}},
        description="Ends the calling session and all that was registered in it.",
    ),
    "client.log_out_others": Call(
        "Apps",
        "Done",
        {"success": True},
        description='"Log out elsewhere": the calling session and its registrations stay.',
    ),
    "service.look_up_push_tokens": Call(
        "Services",
        "Listed",
        _TOKENS,
        service_schemas.Lookup,
        {"userIds": [USER], "appName": APP},
        (({}, f"userIds: {_MISSING}", _PARAMS),),
        description="Those whose session is live, of each user the 100 latest renewed; ordered by"
        " userId, _id and appName.",
    ),
    "service.list_push_tokens": Call(
        "Services",
        "Page",
        {"tokens": [REGISTRATION], "cursor": None, "success": True},
        service_schemas.ListPage,
        {"count": 100},
        (
            (
                {"count": 0},
                "count: Must be greater than or equal to 1 and less than or equal to 1000.",
                _PARAMS,
            ),
        ),
        description="A page looks at a bounded number of rows: with filters it may be short or"
        " empty and still have a cursor. The last one has null.",
    ),
    "service.take_feedback": Call(
        "Services",
        "Counted",
        {"removed": 1, "kept": 0, "unknown": 0, "success": True},
        verdict_schemas.Feedback,
        {"results": [_VERDICT]},
        (({"results": []}, "results: Must have 1 to 1000 elements.", _PARAMS),),
        description="FCM's 404 UNREGISTERED and APNs' 410 remove; FCM's 400 INVALID_ARGUMENT only"
        " with `payloadValid`, 403 SENDER_ID_MISMATCH only with `credentialsValid`, APNs' 400"
        " BadDeviceToken only with `environmentRight`; all else keeps. What was registered again"
        ' since is never removed. A verdict as a library gave it does: null, `""` and 0 count as'
        " absent. One that cannot be read is counted in `invalid`, and `errors` says why; the"
        " others are taken.",
    ),
    "service.put_sessions": Call(
        "Services",
        "Sessions",
        {"sessions": 1, "success": True},
        service_schemas.PutSessions,
        {"sessions": [{"userId": USER, "hashedToken": HASH, "expiresAt": None}]},
        (({"sessions": []}, "sessions: Must have 1 to 1000 elements.", _PARAMS),),
        description="Again is a renewal. A hash that is known for another user is 400.",
    ),
    "service.revoke_sessions": Call(
        "Services",
        "Ended",
        _ENDED,
        service_schemas.RevokeSessions,
        {"userId": USER},
        (({}, f"userId: {_MISSING}", _PARAMS),),
        description="With what was registered in them: one (`hashedToken`), all but some"
        " (`exceptHashedTokens`), or all of a user.",
    ),
    "monitoring.healthz": Call("Operation", "Alive", {"status": "ok", "version": VERSION}),
    "monitoring.readyz": Call(
        "Operation",
        "Ready",
        {"status": "ok", "version": VERSION, "revision": "0001_push_tokens"},
        description="The database answers and its revision is the code's; else 503 says which.",
    ),
    "monitoring.show_metrics": Call("Operation", "text/plain"),
    "docs.show_root": Call("Operation", "Elsewhere", {"docs": "/docs"}, status="302"),
    "docs.openapi_json": Call("Operation", "Document"),
    "docs.show_page": Call("Operation", "text/html"),
    "docs.show_asset": Call("Operation", "*/*", more=("404",)),
}
