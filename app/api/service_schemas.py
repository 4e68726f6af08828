"""Schemas of the bodies that services send.

Messages become `results.1.sentAt: …`: the path of the field, in lists with the index from 0.
"""

import base64
import binascii
from datetime import UTC, datetime
from typing import Any

from marshmallow import (
    EXCLUDE,
    Schema,
    ValidationError,
    fields,
    validate,
    validates_schema,
)

from app.identifiers import parse_hash
from app.limits import (
    ENVIRONMENTS,
    KINDS,
    MAX_APP_NAME,
    MAX_DEVICE_ID,
    MAX_MOMENT,
    MAX_USER_ID,
    is_text,
)

MAX_ITEMS = 1000  # of any list in one call


class BoundedText(fields.String):
    """A string of 1 to `limit` bytes of UTF-8 that PostgreSQL can hold."""

    def __init__(self, limit: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.limit = limit

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> str:
        if not is_text(value, self.limit):
            raise ValidationError(f"Must be a string of 1 to {self.limit} bytes of UTF-8.")
        return str(value)


class HashedToken(fields.Field[bytes]):
    """base64 of the SHA-256 of an auth token, as Meteor stores it."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> bytes:
        try:
            return parse_hash(value)
        except ValueError as error:
            raise ValidationError(str(error)) from None


class Moment(fields.AwareDateTime):
    """An ISO 8601 date and time with its offset, in a year that PostgreSQL and clocks share."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> datetime:
        if not isinstance(value, str) or len(value) > MAX_MOMENT:
            raise self.make_error("invalid", input=value, obj_type=self.OBJ_TYPE)
        try:
            moment: datetime = super()._deserialize(value, attr, data, **kwargs).astimezone(UTC)
        except OverflowError:
            raise self.make_error("invalid", input=value, obj_type=self.OBJ_TYPE) from None
        return moment


class Whole(fields.Integer):
    """A number without a fraction, never a string; JSON does not tell 404.0 from 404."""

    def __init__(self, low: int, high: int, **kwargs: Any):
        super().__init__(strict=True, validate=validate.Range(low, high), **kwargs)

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        number: int = super()._deserialize(value, attr, data, **kwargs)
        return number


class Flag(fields.Boolean):
    """True or false; marshmallow's also takes "yes", and what removes must be meant."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


class Cursor(fields.Field[str]):
    """The id of the last row of a page, encoded so that it does not look like an id."""

    PREFIX = "after:"

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> str:
        try:
            text = base64.b64decode(value, altchars=b"-_", validate=True).decode()
        except (TypeError, ValueError, binascii.Error):
            text = ""
        after = text.removeprefix(self.PREFIX)
        if not text.startswith(self.PREFIX) or not is_text(after, MAX_DEVICE_ID):
            raise ValidationError("Is not a cursor that push.tokens.list returned.")
        return after

    @classmethod
    def of(cls, row_id: str) -> str:
        """Return the cursor of the page after this row."""
        return base64.urlsafe_b64encode((cls.PREFIX + row_id).encode()).decode()


class Elements(fields.List[Any]):
    """A list of at most MAX_ITEMS elements; its length is checked before its elements.

    marshmallow's own list looks at every element and makes an error of each bad one, and only
    then at the length: seconds and gigabytes for a body of a million zeros. Here the first bad
    element is the error, under its index.
    """

    def __init__(self, element: Any, shortest: int, **kwargs: Any):
        words = f"Must have {shortest} to {MAX_ITEMS} elements."
        self._length = validate.Length(shortest, MAX_ITEMS, error=words)
        super().__init__(element, validate=self._length, **kwargs)

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> list[Any]:
        if not isinstance(value, list):
            raise self.make_error("invalid")
        self._length(value)
        return [self._taken(place, element, **kwargs) for place, element in enumerate(value)]

    def _taken(self, place: int, element: Any, **kwargs: Any) -> Any:
        try:
            return self.inner.deserialize(element, **kwargs)
        except ValidationError as error:
            raise ValidationError({place: error.messages}) from None


class ServiceSchema(Schema):
    """A body whose unknown fields are ignored."""

    class Meta:
        """Ignore unknown fields."""

        unknown = EXCLUDE


class Narrowing(ServiceSchema):
    """Filters of the registrations that a sender wants, and whether it wants environments."""

    app_name = BoundedText(MAX_APP_NAME, data_key="appName")
    type = fields.String(validate=validate.OneOf(KINDS))
    environment = fields.String(validate=validate.OneOf(ENVIRONMENTS))
    with_environment = Flag(data_key="withEnvironment", load_default=False)


class Lookup(Narrowing):
    """The body of `push.tokens.lookup`."""

    user_ids = Elements(BoundedText(MAX_USER_ID), 1, data_key="userIds", required=True)


class ListPage(Narrowing):
    """The body of `push.tokens.list`."""

    updated_since = Moment(data_key="updatedSince")
    count = Whole(1, MAX_ITEMS, load_default=100)
    cursor = Cursor(load_default=None, allow_none=True)


class AnnouncedSession(ServiceSchema):
    """A session that an identity provider knows."""

    user_id = BoundedText(MAX_USER_ID, data_key="userId", required=True)
    token_hash = HashedToken(data_key="hashedToken", required=True)
    expires_at = Moment(data_key="expiresAt", allow_none=True)


class PutSessions(ServiceSchema):
    """The body of `sessions.put`."""

    sessions = Elements(fields.Nested(AnnouncedSession), 1, required=True)


class RevokeSessions(ServiceSchema):
    """The body of `sessions.revoke`."""

    user_id = BoundedText(MAX_USER_ID, data_key="userId", required=True)
    token_hash = HashedToken(data_key="hashedToken")
    except_hashes = Elements(HashedToken(), 0, data_key="exceptHashedTokens")

    @validates_schema
    def _either_or(self, data: dict[str, Any], **kwargs: Any) -> None:
        if "token_hash" in data and "except_hashes" in data:
            raise ValidationError("Goes without hashedToken.", "exceptHashedTokens")


lookup = Lookup()
list_page = ListPage()
put_sessions = PutSessions()
revoke_sessions = RevokeSessions()
