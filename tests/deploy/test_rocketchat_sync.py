"""deploy/rocketchat-sync: what the timer does beside Rocket.Chat."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.config import ROOT
from tests.support.rocketchat import RocketChat, rocketchat, tools

SYNC = ROOT / "deploy" / "rocketchat-sync"
PATH, LOOKUP = "/api/v1/push.token", "/api/v1/push.tokens.lookup"


@pytest.fixture
def chat():
    with rocketchat() as server:
        yield server


@pytest.fixture
def sync(chat: RocketChat, database_url: str, tmp_path: Path):
    """A function that runs the script as the timer does; returns its status and what it said."""
    config = tmp_path / "mongo.yaml"
    config.write_text("uri: mongodb://db.example.org/rocketchat\n")
    temporary = tmp_path / "tmp"
    temporary.mkdir()

    def sync(**environ: str) -> tuple[int, dict[str, int], str]:
        done = subprocess.run(
            [SYNC],
            env={
                "PATH": f"{tools(chat, tmp_path)}:{os.environ['PATH']}",
                "DATABASE_URL": database_url,
                "MONGO_CONFIG": str(config),
                "PUSH_TOKENS": str(Path(sys.executable).with_name("push-tokens")),
                "TMPDIR": str(temporary),
                **environ,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert list(temporary.iterdir()) == [], "no export is left behind"
        return done.returncode, json.loads(done.stdout or "{}"), done.stderr

    return sync


@pytest.fixture
def beside(new_app, database_url: str, chat: RocketChat):
    """The registry where Rocket.Chat decides who is signed in."""
    app = new_app(database_url=database_url, auth_backend="rocketchat", rocketchat_url=chat.url)
    return app.test_client()


def test_who_signs_out_in_rocketchat_is_not_pushed_to(chat, sync, beside, issue):
    """The official app signs out over its socket, and neither nginx nor the registry sees it."""
    sender = issue("lookup")

    def reached() -> list[str]:
        tokens = beside.post(LOOKUP, json={"userIds": ["alice"]}, headers=sender).json["tokens"]
        return [token["_id"] for token in tokens]

    logins = {name: chat.sign_in("alice") for name in ("phone", "tablet")}
    for name, auth_token in logins.items():
        fields = {"type": "gcm", "value": f"of {name}", "appName": "chat.example", "id": name}
        headers = {"X-User-Id": "alice", "X-Auth-Token": auth_token}
        assert beside.post(PATH, json=fields, headers=headers).status_code == 200
    assert sync()[1] == {"read": 1, "sessions": 2, "rejected": 0, "ended": 0, "tokens": 0}
    assert reached() == ["phone", "tablet"]

    chat.sign_out(logins["phone"])
    assert reached() == ["phone", "tablet"], "nobody has told the registry yet"
    assert sync()[1] == {"read": 1, "sessions": 1, "rejected": 0, "ended": 1, "tokens": 1}
    assert reached() == ["tablet"]


def test_an_export_that_fails_ends_nothing(chat, sync, database):
    chat.sign_in("alice")
    chat.sign_in("bob")
    assert sync()[0] == 0
    chat.users.clear()
    status, _, said = sync()
    assert status == 1
    assert "no session was ended" in said
    status, summary, _ = sync(MONGOEXPORT_FAILS="1")
    assert (status, summary) == (1, {})
    assert len(database.rows("SELECT 1 FROM user_sessions")) == 2


@pytest.mark.slow
def test_deleted_users_end_only_where_enough_are_left(chat, sync, database):
    for user_id in ("alice", "bob", "carol"):
        chat.sign_in(user_id)
    assert sync()[0] == 0
    del chat.users["carol"]
    assert sync()[1]["ended"] == 0
    assert sync(EXPECT_USERS="3")[0] == 1
    assert sync(EXPECT_USERS="2")[1]["ended"] == 1
    users = {row["user_id"] for row in database.rows("SELECT user_id FROM user_sessions")}
    assert users == {"alice", "bob"}
