"""Databases and the service's connections to them."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from flask import Flask
from psycopg.rows import dict_row

from app import services
from app.config import ROOT
from tests.support.factories import Database


def migrate(url: str, verb: str, *arguments: str) -> None:
    """Run an alembic command on a database."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", url)
        getattr(command, verb)(Config(toml_file=ROOT / "pyproject.toml"), *arguments)


@contextmanager
def opened(url: str) -> Iterator[Database]:
    """Connect to a database until the end of the `with`."""
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection:
        yield Database(connection)


def close(app: Flask) -> None:
    """Close the service's connections."""
    with app.app_context():
        services.current().close()
