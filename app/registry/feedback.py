"""What the push providers' verdicts mean for a registration.

The rules stand in one table, each with its source. Whatever is not in it keeps the registration:
a push token that is dead comes back as one, a living one that was removed stays silent.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import FromClause, Text, and_, collate, delete, func, join, select
from sqlalchemy.dialects.postgresql import TIMESTAMP

from app.database.arrays import as_table
from app.limits import APN, GCM, normalize_apns_token
from app.models import PushToken, db

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
    # All else keeps. BadDeviceToken is what the wrong environment gets too, and
    # DeviceTokenNotForTopic the wrong bundle id (APNs); 429 and 5xx are of the
    # moment.
)
TYPES = {"fcm": GCM, "apns": APN}
CLOCK_TOLERANCE = timedelta(minutes=5)  # of the database's clock

Key = tuple[str, str, str]  # app name, push token, type


class FutureVerdictError(Exception):
    """A verdict of the future: its place in the list and the field that says so."""

    def __init__(self, place: int, field: str):
        super().__init__()
        self.place = place
        self.field = field


class FeedbackCounts(NamedTuple):
    """How many verdicts removed a registration, left it, or met none."""

    removed: int
    kept: int
    unknown: int


def removes(verdict: Mapping[str, Any]) -> bool:
    """Tell whether a verdict means that the push token is dead."""
    said = verdict.get("error") or verdict.get("reason")
    return any(
        (verdict["provider"], verdict["status"]) == (provider, status)
        and error in (None, said)
        and (vouched is None or verdict[vouched])
        for provider, status, error, vouched in REMOVES
    )


def _says_when(verdict: Mapping[str, Any]) -> bool:
    return verdict["provider"] == "apns" and "timestamp" in verdict


def moment(verdict: Mapping[str, Any]) -> datetime:
    """Return when the push token was dead: APNs says it itself, else when it was sent to.

    Cut to milliseconds, like the time of a registration, so that neither looks later than it was.
    """
    if _says_when(verdict):
        return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=verdict["timestamp"])
    sent_at: datetime = verdict["sent_at"]
    return sent_at.replace(microsecond=sent_at.microsecond // 1000 * 1000)


def _key(verdict: Mapping[str, Any]) -> Key:
    value = verdict["value"]
    type_ = TYPES[verdict["provider"]]
    return verdict["app_name"], normalize_apns_token(value) if type_ == APN else value, type_


def apply(
    verdicts: Sequence[Mapping[str, Any]], app_names: Collection[str] | None = None
) -> FeedbackCounts:
    """Remove the registrations that verdicts declare dead; count every verdict once.

    A registration renewed at the verdict's moment or later is kept. Of several verdicts on one
    push token one removes it, and those after it meet nothing. With `app_names` registrations of
    other apps are as if absent. Raises FutureVerdictError.
    """
    _check_clock(verdicts)
    seen = [one for one in verdicts if app_names is None or one["app_name"] in app_names]
    dead: dict[Key, datetime] = {}
    for verdict in filter(removes, seen):
        key = _key(verdict)
        dead[key] = max(moment(verdict), dead.get(key, moment(verdict)))
    removed = _remove(dead)
    remaining = _existing({_key(verdict) for verdict in seen} - removed)
    counts = {"removed": 0, "kept": 0, "unknown": 0}
    for verdict in verdicts:
        key = _key(verdict)
        if key in remaining:
            counts["kept"] += 1
        elif key not in removed:
            counts["unknown"] += 1
        elif removes(verdict) and moment(verdict) == dead[key]:
            counts["removed"] += 1
            removed.remove(key)
        else:
            counts["kept"] += 1
    return FeedbackCounts(**counts)


def _check_clock(verdicts: Sequence[Mapping[str, Any]]) -> None:
    latest = db.session.scalars(select(func.now())).one() + CLOCK_TOLERANCE
    for place, verdict in enumerate(verdicts):
        if moment(verdict) > latest:
            raise FutureVerdictError(place, "timestamp" if _says_when(verdict) else "sentAt")


def _asked(keys: Collection[Key], **more: tuple[Any, list[Any]]) -> tuple[Any, FromClause]:
    """Return the table of these keys and what else there is of each; and its join."""
    names = ("app_name", "token", "type")
    columns = {name: (Text, [key[n] for key in keys]) for n, name in enumerate(names)}
    asked = as_table("asked", **columns, **more)
    same = (getattr(PushToken, name) == collate(asked[name], "C") for name in names)
    return asked, join(PushToken, asked.token.table, and_(*same))


def _remove(dead: Mapping[Key, datetime]) -> set[Key]:
    """Remove what was last renewed before its moment; return the keys of what went."""
    moments = list(dead.values())
    asked, found = _asked(dead, moment=(TIMESTAMP(timezone=True), moments))
    doomed = (
        select(PushToken.id)
        .select_from(found)
        .where(PushToken.updated_at < asked.moment)
        .order_by(PushToken.app_name, PushToken.token)
        .with_for_update(of=PushToken)
        .cte("doomed")
    )
    gone = delete(PushToken).where(PushToken.id == doomed.c.id)
    returned = gone.returning(PushToken.app_name, PushToken.token, PushToken.type)
    return {(row.app_name, row.token, row.type) for row in db.session.execute(returned)}


def _existing(keys: Collection[Key]) -> set[Key]:
    """Return the keys that have a registration."""
    _, found = _asked(keys)
    rows = select(PushToken.app_name, PushToken.token, PushToken.type).select_from(found)
    return {(row.app_name, row.token, row.type) for row in db.session.execute(rows)}
