"""Migrations as scripts: what squawk says of them, and psql makes of them what Alembic does."""

import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from app.database import embedded
from migrations.lock_retry import ADVISORY_LOCK
from tests.support.databases import migrate
from tests.support.filled import contents, fill, in_order
from tests.support.roles import psql
from tests.support.scripts import EXPANDED, SCRIPTS, script

REVISIONS = [script.revision for script in SCRIPTS.walk_revisions()][::-1]
STEPS = list(zip(["base", *REVISIONS], REVISIONS, strict=False))

# What squawk may not judge: Alembic's own table; NOT NULL where a checked constraint proves it and
# is then dropped, so that no row is read; tiny tables; and that undoing takes away.
EXCUSED = {
    REVISIONS[0]: ["prefer-text-field"],
    "0007_environment_not_null": ["adding-not-nullable-field", "ban-drop-constraint"],
    "0008_device_id": ["ban-drop-constraint"],  # another one takes its place at once
    "0013_device_id_not_null": [
        "adding-not-nullable-field",
        "ban-drop-constraint",
        "ban-drop-function",  # of a trigger that goes first
    ],
    "0015_limits_of_service_keys": ["constraint-missing-not-valid"],  # of a handful of rows
}
UNDOING = [
    *("ban-drop-table", "ban-drop-column", "ban-drop-constraint", "ban-drop-not-null"),
    "ban-drop-function",
]


def squawk(text: str, *excluded: str) -> tuple[int, str]:
    """Lint a script; return exit status and findings."""
    command = [str(Path(sys.executable).with_name("squawk")), "--pg-version=14.0"]
    command += ["--reporter=gcc", *(f"--exclude={rule}" for rule in excluded)]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(("before", "revision"), STEPS)
def test_squawk_finds_nothing_that_hurts_a_database_in_use(before, revision):
    up = script("upgrade", revision if before == "base" else f"{before}:{revision}")
    assert squawk(up, *EXCUSED.get(revision, [])) == (0, "")
    assert squawk(script("downgrade", f"{revision}:{before}"), *UNDOING) == (0, "")


def test_squawk_would_find_what_hurts():
    code, said = squawk("ALTER TABLE push_tokens ADD COLUMN kind text NOT NULL;")
    assert code != 0
    assert "adding-required-field" in said


def schema(url: str) -> str:
    """Return the schema as pg_dump prints it, without the key that it draws anew each time."""
    command = [str(embedded.binaries() / "pg_dump"), "--schema-only", "--no-owner", url]
    dump = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return re.sub(r"^\\(un)?restrict .*$", "", dump, flags=re.M)


def test_scripts_make_of_an_empty_database_what_alembic_makes(new_database):
    online, offline = new_database(), new_database()
    migrate(online, "upgrade", "head")
    psql(offline, script("upgrade", "head"))
    assert schema(offline) == schema(online)
    assert "CREATE TABLE public.push_tokens" in schema(online)
    migrate(online, "downgrade", "base")
    psql(offline, script("downgrade", "head:base"))
    assert schema(offline) == schema(online)
    assert "push_tokens" not in schema(online)


def test_scripts_make_of_a_filled_database_what_alembic_makes(new_database, new_app):
    online, offline = new_database(), new_database()
    first = REVISIONS[0]
    for url in (online, offline):
        migrate(url, "upgrade", first)
        fill(url)
    before = contents(offline)
    reached = first
    for revision in EXPANDED:
        migrate(online, "upgrade", revision)
        psql(offline, script("upgrade", f"{reached}:{revision}"))
        for url in (online, offline):
            filling = new_app(database_url=url).test_cli_runner()
            assert filling.invoke(args=["push-tokens", "backfill"]).exit_code == 0
        reached = revision
    migrate(online, "upgrade", "head")
    psql(offline, script("upgrade", f"{reached}:head"))
    assert schema(offline) == schema(online)
    assert kept(before, contents(offline))
    migrate(online, "downgrade", first)
    psql(offline, script("downgrade", f"head:{first}"))
    assert schema(offline) == schema(online)
    assert contents(offline) == before


def test_a_script_stops_while_another_deployer_is_at_work(new_database):
    url = new_database()
    with psycopg.connect(url) as deployer:
        deployer.execute("SELECT pg_advisory_lock(%s)", [ADVISORY_LOCK])
        with pytest.raises(AssertionError, match="another deployer is migrating this database"):
            psql(url, script("upgrade", "head"))
    assert "push_tokens" not in schema(url)


@pytest.mark.parametrize("verb", ["upgrade", "downgrade"])
def test_a_script_stops_where_the_database_is_elsewhere(new_database, verb):
    url = new_database()
    migrate(url, "upgrade", "0002_service_keys")
    before = schema(url)
    span = f"0003_refresh_heavy_tables:{'head' if verb == 'upgrade' else '0002_service_keys'}"
    problem = "not at revision 0003_refresh_heavy_tables, where this script begins"
    with pytest.raises(AssertionError, match=problem):
        psql(url, script(verb, span))
    assert schema(url) == before


@pytest.mark.parametrize(("before", "revision"), STEPS[1:])
def test_what_alters_a_table_in_use_has_claimed_it(before, revision):
    """Else it meets an autovacuum, which gives way after a second, and gives up before that."""
    spans = {"upgrade": f"{before}:{revision}", "downgrade": f"{revision}:{before}"}
    for verb, span in spans.items():
        text = script(verb, span)
        for table in ("push_tokens", "user_sessions"):
            claimed, altered = (
                text.find(f"{words} {table}") for words in ("LOCK TABLE", "ALTER TABLE")
            )
            assert altered == -1 or 0 < claimed < altered, (verb, span)


@pytest.mark.parametrize(
    ("span", "column"),
    [
        ("0006_environment_checked:0007_environment_not_null", "environment"),
        ("0012_device_id_checked:0013_device_id_not_null", "device_id"),
    ],
)
def test_not_null_is_proven_before_anybody_is_kept_out(span, column):
    """Also after a downgrade, which leaves the constraint unchecked."""
    text = script("upgrade", span)
    proof = f"VALIDATE CONSTRAINT ck_push_tokens_{column}_there"
    assert 0 < text.find(proof) < text.find("SET NOT NULL")


@pytest.fixture(scope="module")
def copied_at(new_database):
    """A function that makes an empty database at a revision; each is made of the one before it."""
    made: dict[str, str] = {}

    def copy(revision: str) -> str:
        place = REVISIONS.index(revision)
        if revision not in made:
            made[revision] = copy(REVISIONS[place - 1]) if place else new_database()
            migrate(made[revision], "upgrade", revision)
        return new_database(made[revision])

    return copy


@pytest.mark.parametrize(("before", "revision"), STEPS[1:])
def test_rows_survive_down_and_up(copied_at, before, revision):
    url = copied_at(revision)
    fill(url)
    first = contents(url)
    migrate(url, "downgrade", before)
    lower = contents(url)
    assert kept(lower, first)
    migrate(url, "upgrade", revision)
    assert kept(lower, contents(url))


def kept(rows: dict, later: dict) -> bool:
    """Tell whether all these rows are there later, of whatever columns more they are then."""
    assert rows["push_tokens"]
    for table, old in rows.items():
        columns = old[0].keys() if old else set()
        same = [{name: row[name] for name in columns} for row in later[table]]
        assert in_order(same) == old
    return True
