"""What schemathesis cannot read in the document, and the credentials it calls with."""

import base64
import hashlib
import os
import secrets
from datetime import datetime

import psycopg
import schemathesis
from hypothesis import strategies as st

from app.api.service_schemas import Cursor

USER = "schemathesis"
DATABASE = psycopg.connect(os.environ["TEST_DATABASE_URL"], autocommit=True)

# The formats are ours; JSON Schema has no word for bytes of UTF-8.
for limit in (64, 255, 2048):
    texts = st.text(
        st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=limit
    ).filter(lambda text, limit=limit: len(text.encode()) <= limit)
    schemathesis.openapi.format(f"utf8-{limit}-bytes", texts)
schemathesis.openapi.format("cursor", st.text("abcXYZ-ü2", min_size=1, max_size=32).map(Cursor.of))
# A moment over 5 minutes ahead is refused, and a schema does not know what time it is.
schemathesis.openapi.format(
    "date-time",
    st.datetimes(datetime(1970, 1, 2), datetime(2026, 1, 1)).map(lambda at: f"{at.isoformat()}Z"),
)


def _own_hash(user_id: str, hashed_token: str) -> str:
    """A hash belongs to one user for ever: give each user hashes of its own."""
    return base64.b64encode(hashlib.sha256(f"{user_id} {hashed_token}".encode()).digest()).decode()


def names_one(body: object) -> bool:
    """Tell whether the body of a DELETE names a push token; if not, its query must."""
    return isinstance(body, dict) and "token" in body


@schemathesis.hook
def before_call(context, case, kwargs):
    """Keep what no schema can say: one of two places, whose a hash is."""
    if case.meta and not case.meta.generation.mode.is_positive:
        return
    if case.method == "DELETE" and not names_one(case.body):
        case.query = {"token": "of the query"}
    if not isinstance(case.body, dict):
        return
    for session in case.body.get("sessions", []):
        session["hashedToken"] = _own_hash(session["userId"], session["hashedToken"])


class Credentials:
    """A session of its own for each call, as a logout ends it; and a key of all scopes."""

    def get(self, case, context):
        auth_token = secrets.token_urlsafe(32)
        # Who signs out elsewhere must not end the sessions of the calls beside it.
        ends_others = case.operation.path.endswith("removeOtherTokens")
        user_id = f"{USER} {secrets.token_hex(8)}" if ends_others else USER
        DATABASE.execute(
            "INSERT INTO user_sessions (token_hash, user_id) VALUES (%s, %s)",
            (hashlib.sha256(auth_token.encode()).digest(), user_id),
        )
        return user_id, auth_token

    def set(self, case, data, context):
        if case.operation.tags == ["Apps"]:
            case.headers["X-User-Id"], case.headers["X-Auth-Token"] = data
        elif case.operation.tags == ["Services"]:
            case.headers["Authorization"] = os.environ["TEST_SERVICE_KEY"]


schemathesis.auth(refresh_interval=None)(Credentials)
