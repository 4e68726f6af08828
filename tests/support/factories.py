"""Plain things that tests need, with defaults."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict

APNS_TOKEN = "0f744707bebcf74f9b7c25d48e3358945f6aa01da5ddb387462c7eaf61bb78ad"
FCM_TOKEN = "eRcg8wFxT0:APA91b" + "Zx_-9" * 29


def uri(base: str, **changes: str) -> str:
    """Return a libpq URI like `base` with other parameters."""
    parameters = {**conninfo_to_dict(base), **changes}
    dbname = parameters.pop("dbname")
    query = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in parameters.items())
    return f"postgresql:///{dbname}?{query}"


@dataclass(frozen=True)
class Caller:
    """A user with an auth token."""

    user_id: str
    auth_token: str

    @property
    def token_hash(self) -> bytes:
        return hashlib.sha256(self.auth_token.encode()).digest()

    @property
    def headers(self) -> dict[str, str]:
        return {"X-User-Id": self.user_id, "X-Auth-Token": self.auth_token}


@dataclass(frozen=True)
class Database:
    """The tests' way around the API."""

    connection: psycopg.Connection[Any]

    def execute(self, statement: str, *parameters: object) -> None:
        self.connection.execute(statement, parameters)

    def rows(self, query: str, *parameters: object) -> list[dict[str, Any]]:
        return self.connection.execute(query, parameters).fetchall()

    def push_tokens(self) -> list[dict[str, Any]]:
        return self.rows("SELECT * FROM push_tokens ORDER BY app_name, token")

    def forget_everyone(self) -> None:
        """Empty both tables; no registration goes with its session by itself on spread keys."""
        self.execute("DELETE FROM push_tokens")
        self.execute("DELETE FROM user_sessions")

    def sign_in(
        self, user_id: str = "alice", expires: str | None = "1 day", can_sign_in: bool = True
    ) -> Caller:
        """Make a session; `expires` is an interval from now, None for never."""
        caller = Caller(user_id, secrets.token_urlsafe(32))
        self.execute(
            "INSERT INTO user_sessions (token_hash, user_id, expires_at, can_sign_in)"
            " VALUES (%s, %s, now() + %s::interval, %s)",
            *(caller.token_hash, user_id, expires, can_sign_in),
        )
        return caller


def body(**changes: object) -> dict[str, object]:
    """Return the body of a valid registration, with changes."""
    return {"type": "gcm", "value": FCM_TOKEN, "appName": "chat.example", **changes}


def iso(moment: datetime) -> str:
    """Return a moment as a sender writes it."""
    return moment.astimezone(UTC).isoformat()


def without_ids(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return registrations without the rows' own ids, which are made anew by each import."""
    return [{name: row[name] for name in row if name != "id"} for row in rows]
