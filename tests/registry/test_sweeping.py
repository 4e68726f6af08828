"""`push-tokens sweep` mends what races leave where tables are spread over nodes."""

import json

import pytest

from app.config import ROOT
from app.registry.distributed import sweeping
from tests.support.databases import migrate, opened
from tests.support.roles import psql


@pytest.fixture(scope="module")
def spread(new_database) -> str:
    """A database with the keys of spread tables."""
    url = new_database()
    migrate(url, "upgrade", "head")
    psql(url, (ROOT / "deploy/citus/keys.sql").read_text())
    return url


ROW = """
INSERT INTO push_tokens (id, app_name, token, type, user_id, session_hash, device_id, updated_at)
VALUES (%s, 'app', %s, %s, %s, sha256(%s::bytea), %s, now() - %s * interval '1 day')
"""


def test_removes_orphans_and_all_but_the_latest_of_a_device(spread, new_app, monkeypatch):
    monkeypatch.setattr(sweeping, "SLICE", 8)
    app = new_app(database_url=spread, database_distributed="citus")
    with opened(spread) as database:
        database.execute(
            "INSERT INTO user_sessions (token_hash, user_id) VALUES (sha256('s'), 'alice')"
        )
        for n in range(6):
            database.execute(ROW, f"kept{n}", f"k{n}", "apn", "alice", "s", f"device{n}", 1)
        for n in range(5):
            database.execute(ROW, f"old{n}", f"o{n}", "apn", "alice", "s", "device3", 2 + n)
        database.execute(ROW, "call", "c", "voip", "alice", "s", "device3", 9)
        for n in range(6):
            database.execute(ROW, f"orphan{n}", f"x{n}", "gcm", f"bob{n}", "gone", f"y{n}", 0)
        runner = app.test_cli_runner()
        for arguments, orphans, doubles in ((["--dry-run"], 6, 5), ([], 6, 5), ([], 0, 0)):
            result = runner.invoke(args=["push-tokens", "sweep", *arguments])
            expected = {"orphans": orphans, "doubles": doubles, "dryRun": bool(arguments)}
            assert json.loads(result.stdout) == expected
        kept = {row["id"] for row in database.push_tokens()}
        assert kept == {"call", *(f"kept{n}" for n in range(6))}


def test_on_one_postgresql_it_finds_nothing(runner, register, alice, database):
    register(alice)
    result = runner.invoke(args=["push-tokens", "sweep"])
    assert json.loads(result.stdout) == {"orphans": 0, "doubles": 0, "dryRun": False}
    assert len(database.push_tokens()) == 1
