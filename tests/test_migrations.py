"""The migrations: one line of them, reversible, and what the models say."""

import secrets

import psycopg
from alembic.script import ScriptDirectory

from app.config import ROOT
from tests.conftest import migrate, uri
from tests.factories import FCM_TOKEN, body

SCRIPTS = ScriptDirectory(str(ROOT / "migrations"))


def test_there_is_one_head_and_names_are_numbered():
    assert len(SCRIPTS.get_heads()) == 1
    revisions = sorted(script.revision for script in SCRIPTS.walk_revisions())
    for number, revision in enumerate(revisions, start=1):
        assert revision.startswith(f"{number:04}_")
        assert len(revision) <= 32  # alembic_version.version_num
        assert (ROOT / "migrations" / "versions" / f"{revision}.py").exists()


def test_the_models_say_what_the_migrations_make(database_url):
    migrate(database_url, "check")


def test_up_down_up(new_database):
    url = new_database()
    migrate(url, "upgrade", "head")
    first = schema(url)
    migrate(url, "downgrade", "base")
    assert [name for name, *_ in schema(url)] == ["alembic_version"]
    migrate(url, "upgrade", "head")
    assert schema(url) == first


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


def test_the_app_needs_no_right_to_change_the_schema(database_url, database, new_app):
    """A role with the four rights on rows serves every call."""
    role = f"app_{secrets.token_hex(6)}"
    database.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'app'")
    try:
        database.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON user_sessions TO {role}")
        database.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON push_tokens TO {role}")
        database.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON service_keys TO {role}")
        database.execute(f"GRANT SELECT ON alembic_version TO {role}")
        app = new_app(database_url=uri(database_url, user=role, password="app"))
        client, alice = app.test_client(), database.sign_in("alice")
        assert client.get("/readyz").status_code == 200
        url = "/api/v1/push.token"
        assert client.post(url, json=body(), headers=alice.headers).status_code == 200
        assert client.post(url, json=body(id="x"), headers=alice.headers).status_code == 200
        assert client.get(url, headers=alice.headers).status_code == 200
        gone = client.delete(url, json={"token": FCM_TOKEN}, headers=alice.headers)
        assert gone.status_code == 200
        assert client.post("/api/v1/logout", headers=alice.headers).status_code == 200
    finally:
        database.execute(f"DROP OWNED BY {role}")
        database.execute(f"DROP ROLE {role}")


def schema(url: str) -> list[tuple[object, ...]]:
    """Return columns, indexes and constraints of every table."""
    query = """
        SELECT table_name, array_agg(concat_ws(' ', column_name, data_type, is_nullable,
            column_default, collation_name) ORDER BY ordinal_position),
            (SELECT array_agg(indexdef ORDER BY indexdef) FROM pg_indexes
                WHERE tablename = table_name),
            (SELECT array_agg(concat_ws(' ', conname, pg_get_constraintdef(oid)) ORDER BY conname)
                FROM pg_constraint WHERE conrelid = quote_ident(table_name)::regclass)
        FROM information_schema.columns WHERE table_schema = 'public'
        GROUP BY table_name ORDER BY table_name
    """
    with psycopg.connect(url) as connection:
        return connection.execute(query).fetchall()
