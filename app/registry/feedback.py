"""What the push providers' verdicts mean for a registration.

The rules stand in one table, each with its source. Whatever is not in it keeps the registration:
a push token that is dead comes back as one, a living one that was removed stays silent.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import FromClause, Text, and_, collate, func, join, select
from sqlalchemy.dialects.postgresql import TIMESTAMP

from app.database.arrays import as_table
from app.limits import APN, GCM, VOIP, normalize_apns_token
from app.models import PushToken, db
from app.registry import verdicts, ways


def _letters(code: str) -> str:
    return code.replace("_", "").lower().removesuffix("error")


# provider, status, error or reason (None: any), what the sender must vouch for (None: nothing)
REMOVES = (
    # "UNREGISTERED: App instance was unregistered from FCM" (FCM, ErrorCode)
    ("fcm", 404, "UNREGISTERED", None),
    # "a registration token … or an invalid payload" (FCM, ErrorCode): it may be the payload
    ("fcm", 400, "INVALID_ARGUMENT", "payload_valid"),
    # "a registration token is tied to a certain group of senders" (FCM, ErrorCode): it may be
    # the sender's credentials, and then the whole app would go
    ("fcm", 403, "SENDER_ID_MISMATCH", "credentials_valid"),
    # "410: The device token is no longer active for the topic" (APNs, Handling responses)
    ("apns", 410, None, None),
    # "BadDeviceToken: … Verify that the request contains a valid token and that the token
    # matches the environment" (APNs, Handling responses): it may be the other gateway's
    ("apns", 400, "BadDeviceToken", "environment_right"),
    # All else keeps. DeviceTokenNotForTopic is what the wrong bundle id gets too (APNs); 429 and
    # 5xx are of the moment.
)
# Every code, with the status that goes with it where a library gives the code alone.
CODES = (
    *((provider, status, code) for provider, status, code, _ in REMOVES if code),
    *(("apns", 410, code) for code in ("Unregistered", "ExpiredToken")),
)
STATUSES = {code: status for _, status, code in CODES}
# How the providers write a code that libraries write in their own language's way: FCM's as
# `Unregistered` (.NET) and `UnregisteredError` (an exception of firebase-admin for Python), APNs'
# as `bad_device_token` (Elixir).
SPELLED = {(provider, _letters(code)): code for provider, _, code in CODES}
VOUCHED = {
    "payload_valid": "payloadValid",
    "credentials_valid": "credentialsValid",
    "environment_right": "environmentRight",
}
# How a sender may call a provider: as it is called in REMOVES, and the types it speaks of.
PROVIDERS = {
    "fcm": ("fcm", (GCM,)),
    "apns": ("apns", (APN, VOIP)),
    GCM: ("fcm", (GCM,)),
    APN: ("apns", (APN,)),
    VOIP: ("apns", (VOIP,)),
}
CLOCK_TOLERANCE = timedelta(minutes=5)  # of the database's clock

Key = tuple[str, str, str]  # app name, push token, type

REMOVED, KEPT, UNKNOWN, INVALID = OUTCOMES = ("removed", "kept", "unknown", "invalid")


class Judged(NamedTuple):
    """What became of a verdict: one of OUTCOMES, and why."""

    outcome: str
    reason: str


class _Verdict(NamedTuple):
    """A verdict as it concerns a registration; `reason` is why it removes, or does not."""

    value: tuple[str, str]
    types: tuple[str, ...]
    is_dead: bool
    reason: str
    moment: datetime
    dated_by: str


def judge(fields: Mapping[str, Any], said: Iterable[Any]) -> tuple[bool, str]:
    """Tell whether a verdict means that the push token is dead, and why; `said` has its code.

    A status of 0, or nothing at all, is what a sender has that got no answer.
    """
    provider, _ = PROVIDERS[fields["provider"]]
    code = next(filter(None, map(verdicts.code_of, said)), None)
    code = SPELLED.get((provider, _letters(code or "")), code)
    status = fields.get("status", STATUSES.get(code or ""))
    if not status and (code is None or "status" in fields):
        return False, "no answer"
    for of_provider, of_status, error, vouched in REMOVES:
        if (provider, status) == (of_provider, of_status) and error in (None, code):
            if vouched is None or fields[vouched]:
                return True, "dead"
            return False, f"needs {VOUCHED[vouched]}"
    return False, "not final"


def _read(fields: Mapping[str, Any]) -> _Verdict:
    """Return what concerns a registration.

    The moment is when the push token was dead: APNs says it itself, else when it was sent to.
    """
    provider, types = PROVIDERS[fields["provider"]]
    token = fields["value"] if provider == "fcm" else normalize_apns_token(fields["value"])
    body = verdicts.body_of(fields.get("response"))  # the provider's own words first
    said = (body, *(verdicts.opened(fields.get(name)) for name in ("error", "reason")))
    said_at = None
    if provider == "apns":
        moments = (fields.get("timestamp"), *map(verdicts.moment_in, said))
        said_at = next(filter(None, moments), None)
    moment = said_at or verdicts.cut(fields["sent_at"])
    dated_by = "timestamp" if said_at else "sentAt"
    return _Verdict((fields["app_name"], token), types, *judge(fields, said), moment, dated_by)


def apply(
    results: Sequence[Mapping[str, Any] | str], app_names: Collection[str] | None = None
) -> list[Judged]:
    """Remove the registrations that verdicts declare dead; judge every verdict, in order.

    A text stands for a verdict that cannot be read, and says why. A registration renewed at the
    verdict's moment or later is kept. Of several verdicts on one push token one removes it, and
    those after it meet nothing. With `app_names` registrations of other apps are as if absent.
    """
    latest = db.session.scalars(select(func.now())).one() + CLOCK_TOLERANCE
    read = [one if isinstance(one, str) else _read(one) for one in results]
    for place, verdict in enumerate(read):
        if not isinstance(verdict, str) and verdict.moment > latest:
            read[place] = f"{verdict.dated_by}: Is more than 5 minutes in the future."
    concerning = [
        verdict
        for verdict in read
        if not isinstance(verdict, str) and (app_names is None or verdict.value[0] in app_names)
    ]
    return _settle(read, concerning)


def _settle(read: Sequence[_Verdict | str], concerning: Sequence[_Verdict]) -> list[Judged]:
    types = _types({verdict.value for verdict in concerning})
    dead: dict[Key, datetime] = {}
    for verdict in concerning:
        type_ = types.get(verdict.value)
        if verdict.is_dead and type_ in verdict.types:
            key = (*verdict.value, type_)
            dead[key] = max(verdict.moment, dead.get(key, verdict.moment))
    removed = {(app, token): dead[app, token, type_] for app, token, type_ in _remove(dead)}

    def judged(verdict: _Verdict | str) -> Judged:
        if isinstance(verdict, str):
            return Judged(INVALID, verdict)
        if types.get(verdict.value) not in verdict.types:
            return Judged(UNKNOWN, "no registration")
        if verdict.is_dead and removed.get(verdict.value) == verdict.moment:
            del removed[verdict.value], types[verdict.value]
            return Judged(REMOVED, verdict.reason)
        return Judged(KEPT, "registered again since" if verdict.is_dead else verdict.reason)

    return [judged(verdict) for verdict in read]


def _asked(names: Iterable[str], keys: Collection[tuple[str, ...]], **more: Any) -> Any:
    """Return the table of these keys and what else there is of each; and its join."""
    columns = {name: (Text, [key[n] for key in keys]) for n, name in enumerate(names)}
    asked = as_table("asked", **columns, **more)
    same = (getattr(PushToken, name) == collate(asked[name], "C") for name in columns)
    found: FromClause = join(PushToken, asked.token.table, and_(*same))
    return asked, found


def _remove(dead: Mapping[Key, datetime]) -> set[Key]:
    """Remove what was last renewed before its moment; return the keys of what went."""
    if not dead:
        return set()
    names = ("app_name", "token", "type")
    moments = (TIMESTAMP(timezone=True), list(dead.values()))
    asked, found = _asked(names, dead, moment=moments)
    older = select(PushToken.id).select_from(found).where(PushToken.updated_at < asked.moment)
    _, removed = ways.current().locks.remove(older)
    return {(row.app_name, row.token, row.type) for row in removed}


def _types(values: Collection[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Return the types of those push tokens that have a registration, by app name and value."""
    if not values:
        return {}
    _, found = _asked(("app_name", "token"), values)
    rows = select(PushToken.app_name, PushToken.token, PushToken.type).select_from(found)
    return {(row.app_name, row.token): row.type for row in db.session.execute(rows)}
