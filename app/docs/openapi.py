"""The OpenAPI document, made from the schemas that validate.

apispec is imported for the first request for the document: most workers get none, and it costs
memory.
"""

from typing import TYPE_CHECKING, Any

import orjson
from flask import Flask
from werkzeug.routing import Rule

from app.api import auth
from app.api.schemas import (
    BodyParam,
    DeviceId,
    DeviceType,
    Environment,
    RemovePushToken,
    VoipToken,
)
from app.api.service_schemas import BoundedText, Cursor, HashedToken, RevokeSessions
from app.api.verdict_schemas import ProvidersMoment, Said, Status, Verdicts
from app.docs.answers import JSON, STRING, Json, answers, content, shared_answers
from app.docs.calls import CALLS, INTRODUCTION, TAGS, WORDS, Call
from app.limits import ENVIRONMENTS, MAX_DEVICE_ID, MAX_PUSH_TOKEN, MAX_USER_ID, TYPES
from app.version import VERSION

if TYPE_CHECKING:
    from apispec import APISpec

FORM = "application/x-www-form-urlencoded"


def text(limit: int, shortest: int = 1) -> Json:
    """Describe a text of at most `limit` bytes: maxLength counts characters, the format bytes."""
    return {
        "type": "string",
        "minLength": shortest,
        "maxLength": limit,
        "pattern": "^[^\\u0000]*$",
        "format": f"utf8-{limit}-bytes",
    }


def _own_fields(self: Any, field: Any, **kwargs: Any) -> Json:
    """Describe the kinds of fields that are ours (apispec's attribute function)."""
    shape: Json = {}
    if isinstance(field, DeviceType):
        shape = {"type": "string", "enum": list(TYPES)}
    elif isinstance(field, BodyParam | BoundedText):
        shape = text(field.limit)
    elif isinstance(field, DeviceId):
        shape = {"anyOf": [text(MAX_DEVICE_ID, 0), {"enum": [None, False, 0]}]}
    elif isinstance(field, Environment):
        shape = {"enum": [*ENVIRONMENTS, "", None]}
    elif isinstance(field, VoipToken):
        shape = {}  # with the type gcm it is ignored, whatever it is
    elif isinstance(field, HashedToken):
        length = {"minLength": 44, "maxLength": 44}
        shape = {"type": "string", "pattern": "^[A-Za-z0-9+/]{43}=$", **length}
    elif isinstance(field, Verdicts):
        # What cannot be read is answered, too; and null, "" and 0 count as absent.
        shape = {"items": {"anyOf": [{"$ref": "#/components/schemas/Verdict"}, {}]}}
    elif isinstance(field, Status):
        digits = {"type": "string", "pattern": "^[1-5][0-9]{2}$"}
        shape = {
            "anyOf": [{"type": "integer", "minimum": 100, "maximum": 599}, {"const": 0}, digits]
        }
    elif isinstance(field, Said):
        shape = {"type": ["string", "object"]}
    elif isinstance(field, ProvidersMoment):
        shape = {"type": ["integer", "string"]}
    elif isinstance(field, Cursor):
        shape = {"type": ["string", "null"], "format": "cursor", "minLength": 1}
    return shape


def _words(self: Any, field: Any, **kwargs: Any) -> Json:
    """Give a field its description and example; its name is the one on the wire."""
    name = field.data_key or field.name
    if field.parent is None or name not in WORDS:
        return {}
    description, example = WORDS[name]
    limit = getattr(field, "limit", MAX_DEVICE_ID if isinstance(field, DeviceId) else 0)
    if limit > 3:
        description += f" At most {limit:,} bytes of UTF-8, without NUL."
    return {"description": description, "examples": [example]}


def _security_of(app: Flask, rule: Rule) -> tuple[Json, str]:
    """Return what a call demands of its callers, and its scope, "" where it has none.

    Both are read where they are enforced: from the guard of the blueprint, and from the mark that
    `auth.requires_scope` leaves at the view.
    """
    guards = app.before_request_funcs.get(rule.endpoint.partition(".")[0], ())
    if auth.require_service_key in guards:
        view: Any = app.view_functions[rule.endpoint]
        return {"security": [{"serviceKey": []}]}, view.scope
    if auth.require_session_of_view in guards:
        return {"security": [{"userId": [], "authToken": []}]}, ""
    return {}, ""


def _statuses(call: Call, *, is_guarded: bool, has_scope: bool) -> Json:
    """Return the answers of a call."""
    is_json = "/" not in call.answer
    good: Json = {"description": "Done."}
    good["content"] = (
        content(call.answer, call.example) if is_json else {call.answer: {"schema": STRING}}
    )
    found = {call.status: good}
    shared = {"400", "405", "408", "413", "414", "429", "431", "500", "503", *call.more}
    if is_guarded:
        shared.add("401")
    if has_scope:
        shared |= {"403", "415"}
    found |= {status: {"$ref": f"#/components/responses/{status}"} for status in sorted(shared)}
    if call.wrong:
        bad = {
            f"{code}-{place}": {"success": False, "error": f"{words} [{code}]", "errorType": code}
            for place, (_, words, code) in enumerate(call.wrong)
        }
        found["400"] = {
            "description": "A field is missing or wrong; names the first.",
            "content": content("Refused", **bad),
        }
    return found


def _operation(app: Flask, rule: Rule, assets: list[str]) -> Json:
    """Describe one call, KeyError if CALLS lacks it."""
    endpoint, call = rule.endpoint, CALLS[rule.endpoint]
    security, scope = _security_of(app, rule)
    summary, _, _ = str(app.view_functions[endpoint].__doc__).partition("\n")
    what: Json = {
        "tags": [call.tag],
        "operationId": endpoint.replace(".", "_"),
        "summary": summary.removesuffix("."),
        "responses": _statuses(call, is_guarded=bool(security), has_scope=bool(scope)),
        **security,
    }
    if sentences := [*filter(None, [call.description, scope and f"Scope: `{scope}`."])]:
        what["description"] = " ".join(sentences)
    if call.schema:
        ref: Json = {"$ref": f"#/components/schemas/{call.schema.__name__}"}
        texts = dict.fromkeys(("environment",), STRING)  # a form has no null
        shape: Json = {
            JSON: {"schema": ref},
            FORM: {"schema": {"allOf": [ref, {"properties": texts}]}},
        }
        kinds = (JSON,) if call.tag == "Services" else (JSON, FORM)
        what["requestBody"] = {
            # The query of a DELETE does as well, and OpenAPI cannot say: one of the two.
            "required": call.schema is not RemovePushToken,
            "content": {kind: shape[kind] | {"example": call.body} for kind in kinds},
        }
    if endpoint == "client.remove_push_token":
        # Not limited by its schema: where the body names one, this is not looked at.
        words = f"The push token, where the body has none; at most {MAX_PUSH_TOKEN:,} bytes."
        what["parameters"] = [
            {"in": "query", "name": "token", "description": words, "schema": STRING}
        ]
    if endpoint == "docs.show_asset":
        what["parameters"] = [
            {"in": "path", "name": "asset", "required": True, "schema": {"enum": assets}}
        ]
    return what


def _security(spec: "APISpec") -> None:
    """Describe what callers show."""
    header = {"type": "apiKey", "in": "header"}
    for name, title, words in (
        ("userId", "X-User-Id", f"The user's id, 1 to {MAX_USER_ID} bytes."),
        ("authToken", "X-Auth-Token", "The auth token of the user's session."),
    ):
        spec.components.security_scheme(name, header | {"name": title, "description": words})
    words = "A service key; its scopes are of `lookup`, `feedback` and `sessions`."
    bearer = {"type": "http", "scheme": "bearer", "description": words}
    spec.components.security_scheme("serviceKey", bearer)


def build(app: Flask, assets: list[str]) -> bytes:
    """Return the document of all routes of the app as JSON; KeyError for a route it lacks."""
    from apispec import APISpec  # noqa: PLC0415 (see above)
    from apispec.ext.marshmallow import MarshmallowPlugin  # noqa: PLC0415 (see above)

    plugin = MarshmallowPlugin(schema_name_resolver=lambda schema: type(schema).__name__)
    spec = APISpec(
        "Push token registry",
        VERSION,
        "3.1.0",
        [plugin],
        info={"description": INTRODUCTION},
        tags=[{"name": name, "description": words} for name, words in TAGS.items()],
    )
    assert plugin.converter  # noqa: S101 (made by APISpec)
    for describe in (_own_fields, _words):
        plugin.converter.add_attribute_function(describe)
    _security(spec)
    for name, shape in answers().items():
        spec.components.schema(name, shape)
    for status, answer in shared_answers().items():
        spec.components.response(status, answer)
    for call in CALLS.values():
        if call.schema:
            spec.components.schema(call.schema.__name__, schema=call.schema)
    paths: dict[str, Json] = {}
    for rule in app.url_map.iter_rules():
        path = rule.rule.replace("<", "{").replace(">", "}")
        operation = _operation(app, rule, assets)
        methods = sorted((rule.methods or set()) - {"HEAD"}, reverse=True)
        for method in methods:
            # One view may serve two methods, and each operation has a name of its own.
            suffix = "" if method == methods[0] else f"_by_{method}"
            name = f"{operation['operationId']}{suffix}"
            paths.setdefault(path, {})[method.lower()] = operation | {"operationId": name}
    order = list(CALLS)
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: order.index(rule.endpoint)):
        path = rule.rule.replace("<", "{").replace(">", "}")
        if operations := paths.pop(path, None):
            spec.path(path, operations=operations)
    document = spec.to_dict()
    # What the schema's own rule, and the view, say in Python.
    shapes = document["components"]["schemas"]
    either = {"required": ["hashedToken", "exceptHashedTokens"]}
    shapes[RevokeSessions.__name__]["not"] = either
    del shapes[RemovePushToken.__name__]["required"]
    return orjson.dumps(document)
