"""DATABASE_DISTRIBUTED with every key there, as in a tenant's schema that Citus places."""

import pytest

from app.registry.distributed import statements
from tests.support.databases import migrate, opened
from tests.support.factories import body


@pytest.fixture(scope="module")
def url(new_database) -> str:
    """A database with the keys of one PostgreSQL, also in a run with the keys of spread tables."""
    url = new_database()
    migrate(url, "upgrade", "head")
    return url


def test_a_logout_after_the_look_at_the_session_is_a_401(url, new_app, monkeypatch):
    client = new_app(database_url=url, database_distributed="citus").test_client()
    with opened(url) as database:
        alice = database.sign_in("alice")
        write, logouts = statements.write, []

        def write_after_logout(rows: int) -> str:
            logouts.append(database.execute("DELETE FROM user_sessions"))
            return write(rows)

        monkeypatch.setattr(statements, "write", write_after_logout)
        answer = client.post("/api/v1/push.token", json=body(), headers=alice.headers)
        assert len(logouts) == 1
        assert answer.status_code == 401
        assert database.push_tokens() == []
