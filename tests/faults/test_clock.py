"""The clock of one app host is off by a day: dates and expiry are the database's."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.config import ROOT
from tests.support.databases import opened
from tests.support.factories import body
from tests.support.parts import part

PATH = "/api/v1/push.token"


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize("offset", [86400, -86400])
def test_a_wrong_clock_changes_neither_dates_nor_expiry(cluster, unit, folder, offset):
    wrong = clock(folder, offset)
    said = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time())"],
        env=wrong,
        check=True,
        capture_output=True,
    )
    assert abs(float(said.stdout) - datetime.now(UTC).timestamp() - offset) < 60
    with opened(cluster.url()) as database:
        alive = database.sign_in("alive", "12 hours")
        expired = database.sign_in("expired", "-12 hours")
        unit.start(cluster.url(), **wrong)
        status, answer = unit.ask("POST", PATH, alive.headers, body())
        assert status == 200
        result = json.loads(answer)["result"]
        for date in ("createdAt", "updatedAt"):
            assert abs(datetime.now(UTC) - moment(result[date])) < timedelta(minutes=1)
        assert unit.ask("POST", PATH, expired.headers, body(value="e"))[0] == 401
        assert unit.ask("GET", PATH, expired.headers)[0] == 401
        named = unit.ask("POST", PATH, alive.headers, body(id="device", value="d"))[1]
        assert abs(datetime.now(UTC) - moment(json.loads(named)["result"]["updatedAt"])) < (
            timedelta(minutes=1)
        )
        # Commands on that host: a session's life, what is expired, what is long unseen.
        issued = flask(cluster, wrong, "sessions", "issue", "bob", "--days", "1")
        ends = moment(issued["expiresAt"]) - datetime.now(UTC)
        assert timedelta(hours=23) < ends <= timedelta(hours=24)
        flask(cluster, wrong, "sessions", "purge")
        users = {row["user_id"] for row in database.rows("SELECT user_id FROM user_sessions")}
        assert users == {"alive", "bob"}
        database.execute("UPDATE push_tokens SET updated_at = now() - interval '12 hours'")
        flask(cluster, wrong, "push-tokens", "purge", "--unseen-days", "1")
        assert len(database.push_tokens()) == 2


def clock(folder: Path, offset: int) -> dict[str, str]:
    """Return the environment of a process whose clock is off by so many seconds.

    By a library of our own: with libfaketime 0.9.10 every time.sleep() of Python 3.11 fails.
    """
    library = folder / "clock.so"
    source = Path(__file__).with_name("clock.c")
    build = [part("cc"), "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(build, check=True)
    return {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(offset)}


def flask(cluster, environ: dict[str, str], *arguments: str) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "flask", *arguments],
        cwd=ROOT,
        env={**environ, "DATABASE_URL": cluster.url()},
        check=True,
        stdout=subprocess.PIPE,
    )
    result: dict[str, str] = json.loads(done.stdout)
    return result
