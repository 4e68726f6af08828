"""What the OpenAPI document says of the answers: their shapes, and the errors all calls share."""

from typing import Any

from app.api import errors
from app.docs.calls import REGISTRATION, WORDS
from app.limits import ENVIRONMENTS
from app.registry.feedback import OUTCOMES

JSON = "application/json"

Json = dict[str, Any]


def _record(**properties: Any) -> Json:
    """Describe an object with just these keys."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_TRUE, _FALSE, STRING = {"const": True}, {"const": False}, {"type": "string"}
_NUMBER = {"type": "integer", "minimum": 0}


def answers() -> dict[str, Json]:
    """Describe what is answered, by name."""
    one = {"$ref": "#/components/schemas/Registration"}
    many = {"type": "array", "items": one}
    moment = {
        "type": "string",
        "format": "date-time",
        "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$",
    }
    push_token = {
        "oneOf": [_record(gcm=STRING), _record(apn=STRING), _record(voip=STRING)],
        "description": "The push token, under its kind.",
    }
    kinds: Json = dict.fromkeys(REGISTRATION, STRING)
    kinds |= {"token": push_token, "enabled": _TRUE, "createdAt": moment, "updatedAt": moment}
    shown = {
        name: kind | {"description": kind.get("description", WORDS[name][0])}
        for name, kind in kinds.items()
    }
    registration = _record(**shown)
    only = "Only in an answer to `withEnvironment`."
    registration["properties"]["environment"] = {"enum": list(ENVIRONMENTS), "description": only}
    cursor = {"type": ["string", "null"]}
    counted = _record(removed=_NUMBER, kept=_NUMBER, unknown=_NUMBER, success=_TRUE)
    judged = _record(index=_NUMBER, outcome={"enum": list(OUTCOMES)}, reason=STRING)
    counted["properties"] |= {
        "invalid": {"type": "integer", "minimum": 1, "description": "Only where there is one."},
        "errors": {"type": "array", "items": _record(index=_NUMBER, error=STRING)},
        "results": {"type": "array", "items": judged, "description": "Only with `each`."},
    }
    refused = _record(success=_FALSE, error=STRING, errorType=STRING)
    refused["required"] = ["success", "error"]
    refused["properties"]["version"] = STRING | {"description": "The release; of /readyz only."}
    ready = _record(status={"const": "ok"}, version=STRING, revision=STRING)
    ready["properties"]["warnings"] = {"type": "array", "items": STRING, "minItems": 1}
    return {
        "Registration": registration,
        "Registered": _record(result=one, success=_TRUE),
        "Listed": _record(tokens=many, success=_TRUE),
        "Page": _record(tokens=many, cursor=cursor, success=_TRUE),
        "Done": _record(success=_TRUE),
        "LoggedOut": _record(status={"const": "success"}, data=_record(message=STRING)),
        "Counted": counted,
        "Sessions": _record(sessions=_NUMBER, success=_TRUE),
        "Ended": _record(sessions=_NUMBER, tokens=_NUMBER, success=_TRUE),
        "Elsewhere": _record(docs=STRING),
        "Alive": _record(status={"const": "ok"}, version=STRING),
        "Ready": ready,
        "Document": {"type": "object"},
        "Refused": refused,
        "Unauthorized": _record(status={"const": "error"}, message=STRING),
    }


def content(schema: str, example: Any = None, **examples: Any) -> Json:
    """Describe a JSON body of a named schema, with one example or several named ones."""
    shown: Json = {"schema": {"$ref": f"#/components/schemas/{schema}"}}
    if example is not None:
        shown["example"] = example
    if examples:
        shown["examples"] = {name: {"value": value} for name, value in examples.items()}
    return {JSON: shown}


def shared_answers() -> dict[str, Json]:
    """Describe the errors that are the same in every call, by status."""

    def refused(description: str, error: str) -> Json:
        return {
            "description": description,
            "content": content("Refused", {"success": False, "error": error}),
        }

    signed_out, no_scope = errors.unauthorized("").body, errors.forbidden().body
    bodies = {
        "400": refused("The request cannot be read.", "Bad Request"),
        "401": {
            "description": "Credentials missing, wrong or expired; never says which.",
            "content": content("Unauthorized", signed_out),
        },
        "403": refused("The key lacks the scope.", str(no_scope["error"])),
        "404": refused("Nothing of the caller's is there.", "Resource not found"),
        "405": refused("Wrong method.", errors.TEXTS[405]),
        "408": refused("The request was not complete in time.", "Request Timeout"),
        "413": refused("The body is too large.", errors.TEXTS[413]),
        "414": refused("The path is too long.", "Request URI too long"),
        "415": refused("The body is not JSON.", errors.TEXTS[415]),
        "429": refused("Too many requests; nginx says so.", "Error, too many requests."),
        "431": refused("A header is too large.", "Request Header Fields Too Large"),
        "500": refused("Our fault, and in our log.", errors.TEXTS[500]),
        "503": refused("The database is away; come back later.", errors.TEXTS[503]),
    }
    seconds = {"description": "Seconds to wait.", "required": True, "schema": _NUMBER}
    bodies["429"]["headers"] = bodies["503"]["headers"] = {"Retry-After": seconds}
    methods = {"description": "The methods that are right.", "required": True, "schema": STRING}
    bodies["405"]["headers"] = {"Allow": methods}
    return bodies
