"""Schemas of `push.tokens.feedback`: verdicts as the senders' libraries give them.

What libraries do not know they give as null, "" or 0. A verdict that cannot be read becomes a text
that says why, and the others are taken.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

from marshmallow import ValidationError, fields, missing, validate

from app.api.errors import first_problem
from app.api.service_schemas import BoundedText, Elements, Flag, Moment, ServiceSchema
from app.limits import MAX_APP_NAME, MAX_PUSH_TOKEN
from app.registry.feedback import INVALID, KEPT, PROVIDERS, REMOVED, UNKNOWN, Judged
from app.registry.verdicts import as_moment


class Status(fields.Field[int]):
    """An HTTP status, also in digits as aioapns gives it; 0 where no answer came."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> int:
        digits = isinstance(value, str) and len(value) <= 3 and value.isdecimal()
        whole = isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0
        if not (digits or whole) or not (int(value) == 0 or 100 <= int(value) <= 599):
            raise ValidationError("Must be 0, or a number from 100 to 599.")
        return int(value)


class Said(fields.Field[Any]):
    """FCM's error code or APNs' reason, or the object that a library has it in."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, str | dict):
            raise ValidationError("Must be a string or an object.")
        return value


class ProvidersMoment(fields.Field[datetime | None]):
    """The provider's own moment, in ms since 1970 or in ISO 8601; None for one before 2015."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> datetime | None:
        try:
            return as_moment(value)
        except ValueError:
            raise ValidationError("Not a time in ms since 1970 or ISO 8601.") from None


class Verdict(ServiceSchema):
    """What a push provider answered for one push token, as the provider or a library gave it."""

    app_name = BoundedText(MAX_APP_NAME, data_key="appName", required=True)
    value = BoundedText(MAX_PUSH_TOKEN, required=True)
    provider = fields.String(required=True, validate=validate.OneOf(list(PROVIDERS)))
    status = Status()
    error = Said()
    reason = Said()
    response = fields.Raw()
    timestamp = ProvidersMoment()
    sent_at = Moment(data_key="sentAt", required=True)
    payload_valid = Flag(data_key="payloadValid", load_default=False)
    credentials_valid = Flag(data_key="credentialsValid", load_default=False)
    environment_right = Flag(data_key="environmentRight", load_default=False)


class Verdicts(Elements):
    """A list of verdicts: mappings, and texts for those that cannot be read."""

    def _taken(self, place: int, element: Any, **kwargs: Any) -> Any:
        try:
            if isinstance(element, dict):
                return self._read(element)
            return self.inner.deserialize(element, **kwargs)
        except ValidationError as error:
            return first_problem(error)[0]

    def _read(self, verdict: dict[str, Any]) -> dict[str, Any]:
        """Return what Verdict makes of one without null and ""; raise the first field's error.

        Its `load` takes twice as long, and longer the more fields are wrong.
        """
        taken = {}
        for name, field in cast(fields.Nested, self.inner).schema.load_fields.items():
            key = field.data_key or name
            value = verdict.get(key)
            if value is None or value == "":
                value = missing
            if value is missing and not field.required:
                if field.load_default is not missing:
                    taken[name] = field.load_default
                continue
            try:
                taken[name] = field.deserialize(value, key, verdict)
            except ValidationError as error:
                raise ValidationError({key: error.messages}) from None
        return taken


class Feedback(ServiceSchema):
    """The body of `push.tokens.feedback`."""

    results = Verdicts(fields.Nested(Verdict), 1, required=True)
    each = Flag(load_default=False)


feedback = Feedback()


def dump(judged: Sequence[Judged], *, each: bool) -> dict[str, Any]:
    """Shape what became of the verdicts for an answer: counts, and `each` of them if wanted.

    What cannot be read is mentioned only where there is such a verdict, so that all other answers
    are as they always were.
    """
    count = Counter(one.outcome for one in judged)
    answer: dict[str, Any] = {name: count[name] for name in (REMOVED, KEPT, UNKNOWN)}
    if count[INVALID]:
        answer[INVALID] = count[INVALID]
        answer["errors"] = [
            {"index": place, "error": one.reason}
            for place, one in enumerate(judged)
            if one.outcome == INVALID
        ]
    if each:
        answer["results"] = [{"index": n, **one._asdict()} for n, one in enumerate(judged)]
    return answer | {"success": True}
