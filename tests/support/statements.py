"""Counts the statements that the service sends."""

import pytest

from app.database.connections import Connection


def count_statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows with each statement, but for COMMIT and ROLLBACK."""
    seen: list[str] = []
    wait = Connection.wait

    def count(connection, generator, *arguments, **named):
        if generator.__qualname__.endswith("._execute_gen"):
            seen.append(generator.__qualname__)
        return wait(connection, generator, *arguments, **named)

    monkeypatch.setattr(Connection, "wait", count)
    return seen
