"""Rocket.Chat as the registry and its apps see it: REST, users, and what mongoexport prints."""

import hashlib
import json
import secrets
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tests.support.chat import ERAS, Handler, Server, honest
from tests.support.threaded import running

OTHERS = ("api/v1/users.removeOtherTokens", "api/v1/users.logoutOtherClients")
LOGGED_OUT = {"status": "success", "data": {"message": "You've been logged out!"}}


def hashed(auth_token: str) -> str:
    """Return what Meteor stores of an auth token."""
    return b64encode(hashlib.sha256(auth_token.encode()).digest()).decode()


@dataclass
class User:
    """A user's document: who is active, and when each auth token was made."""

    active: bool = True
    logins: dict[str, datetime] = field(default_factory=dict)


class PlayedHandler(Handler):
    """Answers the calls that a phone makes, and everything else with 404."""

    server: "RocketChat"
    content = b""

    def do_GET(self) -> None:  # noqa: N802 (its name)
        length = int(self.headers.get("Content-Length") or 0)
        self.content = self.rfile.read(length)
        # Not self.path, of which Python drops slashes.
        self.server.asked_for.append((self.command, self.requestline.split(" ")[1]))
        super().do_GET()

    do_POST = do_HEAD = do_PUT = do_DELETE = do_GET  # noqa: N815 (its names)


def played(handler: Handler) -> None:
    """Answer a call as Rocket.Chat does, in the way in which versions up to 7 read a path."""
    server = handler.server
    assert isinstance(handler, PlayedHandler)
    assert isinstance(server, RocketChat)
    path = unquote(handler.path.partition("?")[0]).strip("/ ")
    if path == "api/v1/me":
        honest(handler)
    elif server.signed_in.get(handler.secret) != handler.user or not handler.user:
        handler.say(401, ERAS[server.era])
    elif path == "api/v1/logout" and handler.command in ("GET", "POST"):
        server.sign_out(handler.secret)
        handler.say(200, LOGGED_OUT)
    elif path in OTHERS and handler.command == "POST":
        server.sign_out_others(handler.secret)
        handler.say(200, {"success": True})
    elif path == "api/v1/push.token" and handler.command == "POST":
        row = server.register(handler.user, handler.secret, json.loads(handler.content))
        handler.say(200, {"result": row, "success": True})
    elif path == "api/v1/settings/Push_enable" and handler.command == "POST":
        server.pushes = json.loads(handler.content)["value"]
        handler.say(200, {"success": True})
    else:
        handler.say(404, {"status": "error", "message": "API endpoint does not exist"})


class RocketChat(Server):
    """Its users, who is signed in, and what it was asked."""

    handler = PlayedHandler

    def __init__(self, port: int = 0):
        super().__init__(port)
        self.fault = played
        self.users: dict[str, User] = {}
        self.asked_for: list[tuple[str, str]] = []
        self.rows: dict[str, dict[str, Any]] = {}  # _raix_push_app_tokens by _id
        self.pushes = True  # its setting

    def register(self, user_id: str, auth_token: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Store a registration as Rocket.Chat up to 8 does, and return its row."""
        row_id = fields.get("id") or secrets.token_hex(9)[:17]
        token = {fields["type"]: fields["value"]}
        now = {"$date": datetime.now(UTC).isoformat()}
        self.rows = {one: row for one, row in self.rows.items() if row["token"] != token}
        self.rows[row_id] = {
            **{"_id": row_id, "token": token, "appName": fields["appName"], "userId": user_id},
            **{"authToken": hashed(auth_token), "enabled": True, "metadata": {}},
            **{"createdAt": now, "updatedAt": now},
        }
        return self.rows[row_id]

    def pushed(self, user_id: str) -> list[str]:
        """Return the push tokens to which it pushes a message for a user."""
        rows = [row for row in self.rows.values() if row["userId"] == user_id and self.pushes]
        return [value for row in rows for value in row["token"].values()]

    def sign_in(self, user_id: str, auth_token: str = "") -> str:
        """Make a login token of a user and return its auth token."""
        auth_token = auth_token or secrets.token_urlsafe(32)
        self.users.setdefault(user_id, User()).logins[auth_token] = datetime.now(UTC)
        self.signed_in[auth_token] = user_id
        return auth_token

    def sign_out(self, auth_token: str) -> None:
        """End a login, as `logout` over REST and over the socket does."""
        user_id = self.signed_in.pop(auth_token, "")
        if user_id:
            del self.users[user_id].logins[auth_token]
            gone = hashed(auth_token)
            self.rows = {one: row for one, row in self.rows.items() if row["authToken"] != gone}

    def sign_out_others(self, auth_token: str) -> None:
        """End the user's other logins."""
        for other in set(self.users[self.signed_in[auth_token]].logins) - {auth_token}:
            self.sign_out(other)

    def deactivate(self, user_id: str) -> None:
        """Deactivate a user; before the end of 2025 a version left the login tokens there."""
        self.users[user_id].active = False
        for auth_token in self.users[user_id].logins:
            self.signed_in.pop(auth_token, None)

    def users_export(self, days_ago: float = 0) -> bytes:
        """Return what mongoexport prints of the users' fields that the registry needs."""
        documents = []
        for user_id, user in self.users.items():
            tokens = [
                {
                    "when": {"$date": (made - timedelta(days=days_ago)).isoformat()},
                    "hashedToken": hashed(auth_token),
                }
                for auth_token, made in user.logins.items()
            ]
            resume = {"resume": {"loginTokens": tokens}}
            documents.append({"_id": user_id, "active": user.active, "services": resume})
        return b"".join(json.dumps(one).encode() + b"\n" for one in documents)


@contextmanager
def rocketchat(port: int = 0) -> Iterator[RocketChat]:
    """Run it until the end of the `with`."""
    server = RocketChat(port)
    with running(server):
        yield server


# mongoexport as the documents call it: what it is asked for lies beside it.
MONGOEXPORT = """#!{python}
import argparse, os, pathlib, shutil, sys
parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--quiet", action="store_true")
for option in ("--config", "--collection", "--out"):
    parser.add_argument(option, required=True)
parser.add_argument("--fields", default="")
asked = parser.parse_args()
assert pathlib.Path(asked.config).read_text().startswith("uri: mongodb://")
found = pathlib.Path(__file__).with_name(asked.collection + ".json")
if asked.collection == "users":
    assert asked.fields == "_id,active,services.resume.loginTokens", asked.fields
data = found.read_bytes()
fails = "MONGOEXPORT_FAILS" in os.environ
pathlib.Path(asked.out).write_bytes(data[: len(data) // 2] if fails else data)
sys.exit(int(fails))
"""


def tools(server: RocketChat, folder: Path) -> Path:
    """Make a folder with a mongoexport that prints what Rocket.Chat's database has now."""
    place = folder / "tools"
    place.mkdir(exist_ok=True)
    (place / "mongoexport").write_text(MONGOEXPORT.format(python=sys.executable))
    (place / "mongoexport").chmod(0o755)
    (place / "users.json").write_bytes(server.users_export())
    rows = b"".join(json.dumps(row).encode() + b"\n" for row in server.rows.values())
    (place / "_raix_push_app_tokens.json").write_bytes(rows)
    return place
