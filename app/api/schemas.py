"""Schemas of the apps' requests, and of the registrations in answers."""

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any, cast

from marshmallow import EXCLUDE, Schema, ValidationError, fields, missing, post_load

from app.limits import (
    APN,
    ENVIRONMENTS,
    MAX_APP_NAME,
    MAX_DEVICE_ID,
    MAX_PUSH_TOKEN,
    PRODUCTION,
    TYPES,
    is_text,
    iso,
    normalize_apns_token,
)


class BodyParam(fields.Field[str]):
    """A non-empty string of at most `limit` bytes, or the error of the call's documentation."""

    def __init__(self, limit: int, *, error_type: str, **kwargs: Any):
        super().__init__(required=True, **kwargs)
        self.limit = limit
        self.error_type = error_type

    def _problem(self) -> ValidationError:
        name = self.data_key or self.name
        text = f'The required "{name}" body param is missing or invalid.'
        return ValidationError([(text, self.error_type)])

    def make_error(self, key: str, **kwargs: Any) -> ValidationError:
        """Answer a missing and a null field like any other invalid one."""
        return self._problem()

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> str:
        if not is_text(value, self.limit):
            raise self._problem()
        return str(value)


class DeviceType(BodyParam):
    """`apn` or `gcm`, in exactly this spelling."""

    def __init__(self) -> None:
        super().__init__(3, error_type="error-type-param-not-valid")

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> str:
        if value not in TYPES:
            raise self._problem()
        return str(value)


class DeviceId(fields.Field[str | None]):
    """The optional `id`: whatever JavaScript calls falsy counts as absent, as in Rocket.Chat."""

    def __init__(self) -> None:
        super().__init__(load_default=None, allow_none=True)

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> str | None:
        if isinstance(value, str | bool | int | float) and not value:
            return None
        if not is_text(value, MAX_DEVICE_ID):
            problem = ('The required "id" body param is invalid.', "error-id-param-not-valid")
            raise ValidationError([problem])
        return str(value)


class Environment(fields.Field[str]):
    """The optional `environment`: an addition of this service, which Rocket.Chat's apps lack."""

    def __init__(self) -> None:
        super().__init__(load_default=PRODUCTION)

    def deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        """Return the environment; null and the empty text count as absent."""
        return super().deserialize(missing if value in (None, "") else value, *args, **kwargs)

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> str:
        if value not in ENVIRONMENTS:
            problem = 'The "environment" body param is invalid.'
            raise ValidationError([(problem, "error-environment-param-not-valid")])
        return str(value)


class VoipToken(fields.Raw):
    """The optional `voipToken`; whether it counts depends on other fields (`_canonical`)."""

    limit = MAX_PUSH_TOKEN


class RegisterPushToken(Schema):
    """The body of `POST push.token`; the fields in the order in which they are checked."""

    class Meta:
        """Ignore unknown fields, as Rocket.Chat does."""

        unknown = EXCLUDE

    device_id = DeviceId()
    type = DeviceType()
    token = BodyParam(MAX_PUSH_TOKEN, data_key="value", error_type="error-token-param-not-valid")
    app_name = BodyParam(
        MAX_APP_NAME, data_key="appName", error_type="error-appName-param-not-valid"
    )
    environment = Environment()
    voip_token = VoipToken(data_key="voipToken", load_default=None, allow_none=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fields["device_id"].data_key = "id"

    @post_load
    def _canonical(self, data: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        if data["type"] == APN:
            data["token"] = normalize_apns_token(data["token"])
            if data.get("voip_token") is not None:
                data["voip_token"] = _voip_token(data)
        elif "voip_token" in data:
            data["voip_token"] = None
        return data


def _voip_token(data: Mapping[str, Any]) -> str | None:
    """Return the VoIP push token of an APNs registration, None where it is the empty string."""
    value = data["voip_token"]
    if value == "":
        return None
    if data["device_id"] is None:
        raise ValidationError([("voip-tokens-must-specify-device-id", "")])
    if is_text(value, MAX_PUSH_TOKEN):
        token = normalize_apns_token(value)
        if token != data["token"]:
            return token
    problem = 'The "voipToken" body param is invalid.'
    raise ValidationError([(problem, "error-voipToken-param-not-valid")])


class RemovePushToken(Schema):
    """The body, or the query, of `DELETE push.token`."""

    class Meta:
        """Ignore unknown fields."""

        unknown = EXCLUDE

    token = BodyParam(MAX_PUSH_TOKEN, error_type="error-token-param-not-valid")


class PushTokenView(Schema):
    """A registration as senders and apps read it; the keys in the documented order."""

    token = fields.Function(lambda row: {row["type"]: row["token"]})
    app_name = fields.String(data_key="appName")
    user_id = fields.String(data_key="userId")
    enabled = fields.Boolean()
    created_at = fields.Function(lambda row: iso(row["created_at"]), data_key="createdAt")
    updated_at = fields.Function(lambda row: iso(row["updated_at"]), data_key="updatedAt")
    device_id = fields.String(data_key="_id")


class PushTokenViewWithEnvironment(PushTokenView):
    """The same for a sender that asks `withEnvironment`."""

    environment = fields.String()


register_push_token = RegisterPushToken()
_register_without_calls = RegisterPushToken(exclude=("voip_token",))
remove_push_token = RemovePushToken()


def load_registration(body: Any) -> dict[str, Any]:
    """Return the fields of the body of `POST push.token`; raise ValidationError.

    Most bodies have no `voipToken`, and a field costs a tenth of reading all of them.
    """
    has_calls = isinstance(body, dict) and "voipToken" in body
    schema = register_push_token if has_calls else _register_without_calls
    return cast(dict[str, Any], schema.load(body))


def _dumper(view: Schema) -> Callable[[Mapping[Any, Any]], dict[str, Any]]:
    """Return a function that gives what `view.dump` gives of a row, in under half of the time.

    The columns hold what their fields would make of them, so that only functions are called.
    """
    getters: list[tuple[str, Callable[[Mapping[Any, Any]], Any]]] = []
    for name, field in view.dump_fields.items():
        shaped = isinstance(field, fields.Function) and field.serialize_func
        getters.append((str(field.data_key or name), shaped or itemgetter(name)))
    return lambda row: {name: get(row) for name, get in getters}


_dump = _dumper(PushTokenView())
_dump_with_environment = _dumper(PushTokenViewWithEnvironment())


def dump_push_token(row: Mapping[Any, Any], *, with_environment: bool = False) -> dict[str, Any]:
    """Shape one registration, a mapping with the columns' names, for an answer."""
    return _dump_with_environment(row) if with_environment else _dump(row)
