"""Imports from other systems: our line format, what docs/import.md converts, and what it says."""

import gzip
import json
import re
import shutil
import struct
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.config import ROOT
from tests.support.exports import DATE, row
from tests.support.factories import APNS_TOKEN
from tests.support.parts import part

SAMPLES = Path(__file__).parent / "elsewhere"
DOCUMENT = (ROOT / "docs" / "import.md").read_text()
LINE = {
    "token": "my-push-token",
    "type": "gcm",
    "appName": "org.example.app",
    "userId": "alice",
    "updatedAt": "2026-11-01T10:00:00Z",
}


def test_the_line_of_the_document_suffices(run, database):
    (line,) = re.findall(r"^```json\n(.*?)\n```$", DOCUMENT, re.M)
    assert json.loads(line) == LINE
    summary, result, _ = run(line.encode())
    assert (result.exit_code, summary["inserted"]) == (0, 1)
    (stored,) = database.push_tokens()
    assert (stored["token"], stored["type"], stored["user_id"]) == (
        "my-push-token",
        "gcm",
        "alice",
    )
    assert stored["created_at"] == stored["updated_at"] == datetime(2026, 11, 1, 10, tzinfo=UTC)
    assert (stored["environment"], stored["enabled"]) == ("production", True)


@pytest.mark.parametrize("field", LINE)
def test_each_field_of_the_line_is_needed(run, field):
    lacking = {name: value for name, value in LINE.items() if name != field}
    summary, result, rejects = run(json.dumps(lacking).encode())
    assert (result.exit_code, summary["rejected"]) == (1, 1)
    assert rejects[0]["reason"].startswith("token" if field == "type" else field)
    assert "every row of it was rejected" in result.stderr or field == "token"


def test_ids_of_mongodb_are_read(run, database):
    wrapped = row("t", _id={"$oid": "5f1a"}, userId={"$oid": "60bb"})
    assert run(json.dumps(wrapped).encode())[0]["inserted"] == 1
    (stored,) = database.push_tokens()
    assert (stored["device_id"], stored["user_id"]) == ("5f1a", "60bb")


FCM = {"type": "gcm", "environment": "production", "enabled": True}
APN = {**FCM, "type": "apn"}
# What comes of each sample: by push token, some columns of its row.
COMES = {
    "installations.json": {
        "fcm-of-parse": {
            **FCM,
            "app_name": "com.example.app",
            "user_id": "kT0PqLx9Zw",
            "device_id": "6b3f0b2c-8d5e-4a8e-9d35-0c6c1a2f9d11",
            "created_at": datetime(2020, 5, 1, 10, 0, 0, 123000, UTC),
            "updated_at": datetime(2020, 6, 1, 10, 0, 0, 456000, UTC),
        },
        APNS_TOKEN: {**APN, "updated_at": datetime(2020, 6, 1, 10, 0, 0, 456000, UTC)},
    },
    "dumpdata.json": {
        "fcm-1": {**FCM, "app_name": "com.example.app", "user_id": "1"},
        "0f744707bebcf74f": {
            **APN,
            "app_name": "org.example.app",
            "device_id": "12345678-1234-5678-1234-567812345678",
        },
    },
    "endpoints.json": {
        "fcm-of-sns": {**FCM, "app_name": "MyApplication", "user_id": "alice"},
        APNS_TOKEN: {**APN, "environment": "sandbox", "user_id": "bob", "enabled": False},
        "voip-of-sns": {**FCM, "type": "voip", "environment": "sandbox", "user_id": "bob"},
    },
    "devices.csv": {
        "fcm-of-csv": {
            **FCM,
            "app_name": "com.example.app",
            "user_id": "alice",
            "updated_at": datetime(2026, 11, 1, 10, tzinfo=UTC),
        },
        APNS_TOKEN: {**APN, "updated_at": datetime(2026, 11, 2, 10, 0, 0, 123000, UTC)},
    },
}


def conversion(sample: str) -> str:
    """Return the document's command that converts this file."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", DOCUMENT, re.M | re.S)
    (found,) = [one for one in blocks if sample in one and "> push-tokens.json" in one]
    return str(found)


@pytest.mark.parametrize("sample", COMES)
def test_the_documents_command_converts_a_file_of(run, database, tmp_path, sample):
    part("jq")
    shutil.copy(SAMPLES / sample, tmp_path)
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", conversion(sample)], cwd=tmp_path, check=True
    )
    summary, result, _ = run((tmp_path / "push-tokens.json").read_bytes())
    wanted = COMES[sample]
    assert (result.exit_code, summary["inserted"], summary["rejected"]) == (0, len(wanted), 0)
    stored = {one["token"]: one for one in database.push_tokens()}
    assert {t: {name: stored[t][name] for name in wanted[t]} for t in wanted} == wanted


BSON_ROW = b"\x02_id\0\x05\0\0\0abcd\0\x02appName\0\x05\0\0\0main\0\0"
BSON = struct.pack("<I", len(BSON_ROW) + 4) + BSON_ROW
PRETTY = json.dumps(row("a"), indent=2).encode()
OTHERS = {
    "BSON": (BSON, "it is BSON, as mongodump writes it: `bsondump FILE`"),
    "BSON of 123 bytes": (struct.pack("<I", 123) + BSON_ROW + bytes(80), "it is BSON"),
    "gzipped BSON": (gzip.compress(BSON), "it is BSON"),
    "archive": (b"\x6d\xe2\x99\x81" + BSON, "`mongorestore --archive=FILE`"),
    "UTF-16": (json.dumps(row("a")).encode("utf-16"), "it is text in UTF-16: `iconv -f UTF-16"),
    "UTF-16 unmarked": (json.dumps(row("a")).encode("utf-16-be"), "it is text in UTF-16"),
    "pretty": (
        PRETTY + b"\n" + PRETTY,
        "it is JSON with many lines for a document: `jq -c . FILE`",
    ),
    "users": (
        b'{"_id":"alice","username":"alice","services":{"resume":{"loginTokens":[]}}}\n',
        "it is Rocket.Chat's users: `sessions import FILE`",
    ),
    "CSV": (
        b"_id,token.gcm,appName\nx,y,z\n",
        "it is a table such as CSV: use mongoexport without",
    ),
    "zip": (b"PK\x03\x04rest", "it is a zip archive: `unzip -p FILE`"),
    "zstd": (b"\x28\xb5\x2f\xfdrest", "it is compressed by zstd: `zstd -dc FILE`"),
    "picture": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "it is a binary file"),
    "a Parse table": (
        (SAMPLES / "installations.json").read_bytes(),
        "it is Parse's _Installation",
    ),
    "a dump": ((SAMPLES / "dumpdata.json").read_bytes(), "it is a dump of django-push-notif"),
    "endpoints": (
        (SAMPLES / "endpoints.json").read_bytes(),
        "it is an endpoint list of Amazon SNS",
    ),
    "endpoints in a line": (
        json.dumps(json.loads((SAMPLES / "endpoints.json").read_bytes())).encode(),
        "it is an endpoint list of Amazon SNS",
    ),
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("stdin", [False, True])
def test_a_file_that_is_something_else_is_named(run, database, other, stdin):
    data, said = OTHERS[other]
    _, result, _ = run(data, stdin=stdin)
    assert result.exit_code == 1
    assert said in result.stderr
    assert not database.push_tokens()


def test_what_the_message_says_about_utf_16_helps(run, tmp_path):
    (tmp_path / "16").write_bytes(json.dumps(row("a")).encode("utf-16"))
    told = ["iconv", "-f", "UTF-16", "-t", "UTF-8", str(tmp_path / "16")]
    made = subprocess.run(told, capture_output=True, check=True).stdout
    assert run(made)[0]["inserted"] == 1


def test_a_first_line_like_csv_does_not_hide_the_documents(run):
    summary, result, _ = run(b"exported,today\n" + json.dumps(row("a")).encode() + b"\n")
    assert (result.exit_code, summary["inserted"], summary["rejected"]) == (0, 1, 1)


def test_progress_says_rejected_apart_from_imported(run):
    good = [json.dumps(row(f"t{n}")).encode() for n in range(3)]
    _, result, _ = run(b"\n".join([*good, b'{"token":"x"}', b"{}"]))
    assert "imported: 3 rows, 2 rejected, " in result.stderr


def lookup(call, *users: str) -> list[str]:
    answer = call("/api/v1/push.tokens.lookup", {"userIds": list(users)})
    listed = call("/api/v1/push.tokens.list", {})
    assert len(listed.json["tokens"]) == len(answer.json["tokens"])
    return [next(iter(one["token"].values())) for one in answer.json["tokens"]]


def lines(*rows: dict[str, object]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in rows)


def test_reachable_rows_are_found_until_they_end(run, call, runner, database):
    rows = lines(row("a"), row("b", authToken=None), row("c", userId="bob"))
    assert run(rows, "--reachable-for", "30")[0]["inserted"] == 3
    assert sorted(lookup(call, "alice", "bob")) == ["a", "b", "c"]
    sessions = database.rows("SELECT *, expires_at - now() AS left FROM user_sessions")
    assert [one["left"].days for one in sessions] == [29, 29]
    assert not any(one["can_sign_in"] for one in sessions)
    database.execute("UPDATE user_sessions SET expires_at = now()")
    assert lookup(call, "alice", "bob") == []
    runner.invoke(args=["sessions", "purge"])
    assert not database.push_tokens()


def test_reachable_rows_never_hang_on_their_own_auth_token(run, client, alice, database):
    """That session may have been signed out, and must not come back; nor does it live on."""
    rows = lines(row(alice.auth_token), row("another"))
    run(rows, "--reachable-for", "30")
    hashes = {one["session_hash"] for one in database.push_tokens()}
    assert alice.token_hash not in hashes
    assert len(hashes) == 1
    client.post("/api/v1/logout", headers=alice.headers)
    for hashed in hashes:
        assert (
            client.get(
                "/api/v1/push.token", headers={"X-User-Id": "alice", "X-Auth-Token": hashed.hex()}
            ).status_code
            == 401
        )
    assert len(database.push_tokens()) == 2


def test_a_registration_takes_a_reachable_row_over(run, call, register, client, alice, database):
    run(lines(row("a")), "--reachable-for", "30")
    register(alice, value="a", appName="main")
    (stored,) = database.push_tokens()
    assert stored["session_hash"] == alice.token_hash
    client.post("/api/v1/logout", headers=alice.headers)
    assert lookup(call, "alice") == []


def test_rows_that_an_import_left_become_reachable(run, call, database):
    rows = lines(row("a"), row("b", authToken=None), row("c", updatedAt=DATE))
    run(rows)
    assert lookup(call, "alice") == []
    summary, _, _ = run(rows, "--reachable-for", "30")
    assert (summary["updated"], summary["unchanged"]) == (3, 0)
    assert lookup(call, "alice") == ["a", "b", "c"]
    assert run(rows, "--reachable-for", "30")[0]["unchanged"] == 3


def test_rows_of_a_live_session_stay_with_it(run, call, register, client, alice, database):
    register(alice, value="a", appName="main")
    moment = database.push_tokens()[0]["updated_at"].isoformat()
    same = row("a", updatedAt={"$date": moment})
    assert run(lines(same), "--reachable-for", "30")[0]["unchanged"] == 1
    assert database.push_tokens()[0]["session_hash"] == alice.token_hash


def test_a_later_end_counts_and_a_sooner_one_does_not(run, database):
    for days, left in (("30", 29), ("90", 89), ("5", 89)):
        run(lines(row("a")), "--reachable-for", days)
        ends = database.rows("SELECT expires_at - now() AS left FROM user_sessions")
        assert [one["left"].days for one in ends] == [left]


def test_reachable_and_known_sessions_only_exclude_each_other(runner):
    options = ["--reachable-for", "3", "--known-sessions-only"]
    result = runner.invoke(args=["push-tokens", "import", "-", *options], input=b"")
    assert result.exit_code == 2
    assert "Say which" in result.stderr
