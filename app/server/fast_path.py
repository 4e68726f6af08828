"""The fast path that answers plain registrations before Flask sees them.

Millions of phones make this one request. Only what is plain and valid is answered here, by the
same schema and the same statement as the view (`client.register_push_token`); all else, from a
form to a body that is not valid, is the view's, so that no rule of the API is written twice.
"""

from collections.abc import Mapping
from typing import Any

import orjson
from marshmallow import ValidationError

from app.api import errors, schemas
from app.api.auth import parse_credentials
from app.api.bodies import MAX_BODY
from app.api.request_log import RequestRecord
from app.registry.registration import Registered, Registration
from app.server.wsgi import HEADERS, Answer

METHOD, PATH = "POST", b"/api/v1/push.token"
ROUTE = PATH.decode()


def is_plain(headers: Mapping[bytes, bytes]) -> bool:
    """Tell from the headers whether a request for METHOD and PATH may be answered here."""
    length = headers.get(b"content-length", b"")
    return (
        headers.get(b"content-type", b"").partition(b";")[0] == b"application/json"
        and length.isdigit()
        and int(length) <= MAX_BODY
        and b"expect" not in headers
    )


def read(
    headers: Mapping[bytes, bytes], body: bytes | bytearray, max_age: int | None
) -> Registration | None:
    """Return what a plain request asks for; None leaves the request to the view.

    Raises the 401 for credentials that cannot be right.
    """
    caller = parse_credentials(
        headers.get(b"x-auth-token", b"").decode("latin-1"),
        headers.get(b"x-user-id", b"").decode("latin-1"),
    )
    if caller is None:
        raise errors.unauthorized(errors.NO_CREDENTIALS)
    try:
        fields: dict[str, Any] = schemas.load_registration(orjson.loads(body))
    except (orjson.JSONDecodeError, ValidationError):
        return None
    return Registration(*caller, **fields, max_age=max_age)


def answer(registered: Registered, record: RequestRecord) -> Answer:
    """Return the answer to a registration that is stored."""
    result = schemas.dump_push_token(registered.row)
    body = orjson.dumps({"result": result, "success": True})
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        *HEADERS,
        (b"x-request-id", record.request_id.encode()),
    ]
    return Answer(200, headers, body)
