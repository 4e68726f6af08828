"""The migrations: one line of them, reversible, and what the models say."""

import re

import psycopg

from app.config import ROOT
from app.database.revision import code_revision, revisions
from tests.support.databases import migrate
from tests.support.scripts import SCRIPTS


def test_there_is_one_head_and_names_are_numbered():
    assert SCRIPTS.get_heads() == [code_revision()]
    oldest_first = [script.revision for script in SCRIPTS.walk_revisions()][::-1]
    assert tuple(oldest_first) == revisions()  # which are the files' names
    for number, revision in enumerate(oldest_first, start=1):
        assert revision.startswith(f"{number:04}_")
        assert len(revision) <= 32  # alembic_version.version_num


def test_the_models_say_what_the_migrations_make(database_url):
    migrate(database_url, "check")


def test_every_table_and_column_says_what_it_is_for(database_url):
    bare = """
        SELECT c.relname, a.attname FROM pg_class c
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum >= 0 AND NOT a.attisdropped
        WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
        AND c.relname <> 'alembic_version'
        AND (col_description(c.oid, a.attnum) IS NULL OR obj_description(c.oid) IS NULL)
    """
    with psycopg.connect(database_url) as connection:
        assert connection.execute(bare).fetchall() == []


def test_the_readme_says_what_every_table_column_and_index_is_for(database_url):
    text = (ROOT / "migrations" / "README.md").read_text()
    names = """
        SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE c.relkind IN ('r', 'i') AND c.relnamespace = 'public'::regnamespace
        AND a.attnum > 0 AND c.relname NOT LIKE 'alembic_version%'
        AND a.attname <> 'expr'  -- the part of an index that is no column
    """
    with psycopg.connect(database_url) as connection:
        found = {name for row in connection.execute(names) for name in row}
    assert {"push_tokens", "session_hash", "uq_push_tokens_device"} <= found
    assert {name for name in found if not re.search(rf"\b{name}\b", text)} == set()
    assert {script.revision for script in SCRIPTS.walk_revisions()} <= set(
        re.findall(r"^\| `(\w+)` \|", text, re.M)
    )
