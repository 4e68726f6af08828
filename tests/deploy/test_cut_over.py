"""docs/rocketchat.md, as it stands: its commands move a Rocket.Chat here, and back."""

import http.client
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.config import ROOT
from tests.support.activation import SocketUnit
from tests.support.parts import part
from tests.support.proxy import Proxy, nginx
from tests.support.rocketchat import RocketChat, rocketchat, tools

DOCUMENT = (ROOT / "docs" / "rocketchat.md").read_text()
ALONE = """
server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://rocketchat; proxy_set_header Host $host; }}
}}
upstream rocketchat {{ server 127.0.0.1:{chat}; }}
"""
# What the commands name that a test has not: each is told in a file, or does it to the test's own.
PROGRAMS = {
    # nginx serves by its new configuration once its old workers are gone.
    "systemctl": """echo "$*" >> {place}/systemctl.log
[ "$1" = reload ] || exit 0
read master < {pid}
read -a old < /proc/$master/task/$master/children
kill -HUP $master
for worker in "${{old[@]}}"; do while [ -e /proc/$worker ]; do sleep 0.02; done; done""",
    "nginx": 'exec {nginx} -c {folder}/nginx.conf -e {folder}/main-error.log "$@"',
    "mongoimport": 'echo "$*" > {place}/mongoimport.log; cat > {place}/imported.json',
    "push-tokens": 'exec {push_tokens} "$@"',
}


def blocks(heading: str) -> list[str]:
    """Return the commands below a heading, a block each."""
    section = DOCUMENT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = re.findall(r"^( *)```\n(.*?)^ *```$", section, re.M | re.S)
    return [re.sub(f"^{indent}", "", block, flags=re.M) for indent, block in found]


class Move:
    """An operator with a shell, and the phones that go on as if nothing happened."""

    def __init__(self, proxy: Proxy, chat: RocketChat, folder: Path, database_url: str):
        self.proxy, self.chat, self.folder = proxy, chat, folder
        self.place = tools(chat, folder)
        for name, program in PROGRAMS.items():
            text = program.format(
                place=self.place,
                pid=proxy.folder / "nginx.pid",
                folder=proxy.folder,
                nginx=part("nginx"),
                push_tokens=Path(sys.executable).with_name("push-tokens"),
            )
            (self.place / name).write_text(f"#!/bin/bash\n{text}\n")
            (self.place / name).chmod(0o755)
        (folder / "mongo.yaml").write_text("uri: mongodb://db.example.org/rocketchat\n")
        self.admin = chat.sign_in("admin")
        self.environ = {
            **{"DATABASE_URL": database_url, "ADMIN_ID": "admin", "ADMIN_TOKEN": self.admin},
            **{"AUTH_BACKEND": "rocketchat", "ROCKETCHAT_URL": chat.url},
            **{"PATH": f"{self.place}:{os.environ['PATH']}"},
        }
        self.key = ""

    def run(self, command: str) -> str:
        """Run a block of the document; return what it printed."""
        tools(self.chat, self.folder)
        for there, here in {
            "/etc/push-token-registry/mongo.yaml": str(self.folder / "mongo.yaml"),
            "/etc/nginx/conf.d/rocketchat.conf": str(self.proxy.folder / "sites" / "b.conf"),
            "https://chat.example.org": f"http://127.0.0.1:{self.proxy.chat}",
            "127.0.0.1:8080": f"127.0.0.1:{self.proxy.internal}",
        }.items():
            command = command.replace(there, here)
        done = subprocess.run(
            ["bash", "-eu", "-o", "pipefail"],
            input=command,
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def ask(self, port: int, path: str, fields: object, **headers: str) -> dict[str, object]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", path, json.dumps(fields), {**JSON, **named})
        answer = connection.getresponse()
        said = json.loads(answer.read())
        connection.close()
        assert answer.status == 200, (path, said)
        return said

    def phone(self, user_id: str, auth_token: str, value: str, device: str, **more: str) -> None:
        """Start an app: it registers at the address it always had."""
        fields = {"type": "gcm", "value": value, "appName": "chat.example", "id": device, **more}
        headers = {"X_User_Id": user_id, "X_Auth_Token": auth_token}
        said = self.ask(self.proxy.chat, "/api/v1/push.token", fields, **headers)
        assert said["result"]["_id"] == device  # type: ignore[index]

    def reached(self, user_id: str) -> list[str]:
        """Return the push tokens to which our sender would push."""
        said = self.ask(
            self.proxy.internal,
            "/api/v1/push.tokens.lookup",
            {"userIds": [user_id]},
            Authorization=f"Bearer {self.key}",
        )
        return [value for row in said["tokens"] for value in row["token"].values()]  # type: ignore[attr-defined]


JSON = {"Content-Type": "application/json"}


@pytest.fixture
def move(database_url: str, tmp_path: Path) -> Iterator[Move]:
    part("nginx")
    with rocketchat() as chat:
        unit = SocketUnit(tmp_path / "r.sock")
        unit.start(database_url, AUTH_BACKEND="rocketchat", ROCKETCHAT_URL=chat.url)
        port = chat.server_address[1]
        with nginx(tmp_path / "n", unit.path, rocketchat=port) as proxy:
            site = proxy.folder / "sites" / "b.conf"
            (tmp_path / "rocketchat.conf").write_text(site.read_text())
            alone = ALONE.format(port=proxy.chat, chat=port)
            (tmp_path / "rocketchat-alone.conf").write_text(alone)
            move = Move(proxy, chat, tmp_path, database_url)
            move.run(blocks("Going back")[1])  # as it was before
            yield move
        unit.close()


@pytest.mark.slow
def test_the_document_moves_rocketchat_here_and_back(move: Move):
    chat = move.chat
    alice, bob = chat.sign_in("alice"), chat.sign_in("bob")
    move.phone("alice", alice, "a-1", "phone-a")
    move.phone("bob", bob, "b-1", "phone-b")
    assert (chat.pushed("alice"), chat.pushed("bob")) == (["a-1"], ["b-1"])

    doctor, imports, key = blocks("Before")
    assert "wrong" not in move.run(doctor)
    assert '"inserted":2' in move.run(imports)
    move.run(key)
    move.key = json.loads((move.folder / "sender-key.json").read_text())["key"]
    move.phone("bob", bob, "b-2", "phone-b")  # rotates at Rocket.Chat after the rehearsal

    site, again, stop, timer = blocks("During")
    move.run(site)
    move.phone("alice", alice, "a-2", "phone-a")  # rotates, and registers here
    assert chat.pushed("alice") == ["a-1"], "Rocket.Chat does not learn of it"
    move.run(again)
    assert (move.reached("alice"), move.reached("bob")) == (["a-2"], ["b-2"])
    assert chat.pushed("bob") == ["b-2"], "and both would push to bob"
    move.run(stop)
    assert chat.pushed("alice") == chat.pushed("bob") == []
    move.run(timer)
    assert (
        "enable --now push-token-registry-sync.timer" in (move.place / "systemctl.log").read_text()
    )

    look, tidy = blocks("After")
    move.phone("admin", move.admin, "ad-1", "phone-ad", type="apn", voipToken="ad-calls")
    assert '"apn":"ad-1"' in move.run(look)
    move.run(tidy)

    give, site, start = blocks("Going back")
    move.run(give)
    assert (move.place / "mongoimport.log").read_text().endswith("--mode upsert\n")
    for line in (move.place / "imported.json").read_text().splitlines():
        row = json.loads(line)
        chat.rows[row["_id"]] = row
    move.run(site)
    move.phone("bob", bob, "b-3", "phone-b")
    move.run(start)
    assert (chat.pushed("alice"), chat.pushed("bob")) == (["a-2"], ["b-3"])
    assert chat.pushed("admin") == ["ad-1"], "not the one for calls, which has the same _id"
    assert move.reached("bob") == ["b-2"], "it went to Rocket.Chat"
    chat.sign_out(alice)
    assert chat.pushed("alice") == [], "the rows name their sessions as Rocket.Chat does"


def test_every_command_of_the_document_is_run_above():
    found = re.findall(r"^ *```$", DOCUMENT, re.M)
    headings = ("Before", "During", "After", "Going back")
    assert len(found) == 2 * sum(len(blocks(heading)) for heading in headings) == 24
