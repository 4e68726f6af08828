"""One migrated database for the run, empty again after each test; requests go through HTTP."""

import secrets
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from flask import Flask
from flask.testing import FlaskClient, FlaskCliRunner
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from app import create_app, embedded
from app.config import ROOT, Settings
from app.models import db
from tests.factories import Caller, make_caller


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """A server to make databases on: DATABASE_URL's, or the embedded one."""
    yield Settings.from_env().database_url or embedded.server.acquire()
    embedded.server.release()


@pytest.fixture(scope="session")
def database_url(server_url: str) -> Iterator[str]:
    """A migrated database of this run's own, in the form of a URI."""
    name = f"test_{secrets.token_hex(6)}"
    create = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
    drop = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(create)
        url = uri(server_url, dbname=name)
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("DATABASE_URL", url)
                migrate("upgrade", "head")
            yield url
        finally:
            connection.execute(drop)


def uri(base: str, **changes: str) -> str:
    """A libpq URI like `base` with other parameters."""
    parameters = conninfo_to_dict(base) | changes
    dbname = parameters.pop("dbname")
    query = "&".join(f"{k}={psycopg_quote(str(v))}" for k, v in parameters.items())
    return f"postgresql:///{dbname}?{query}"


def psycopg_quote(value: str) -> str:
    from urllib.parse import quote

    return quote(value, safe="")


def migrate(verb: str, *arguments: str) -> None:
    """Run an alembic command on the database of DATABASE_URL."""
    getattr(command, verb)(Config(toml_file=ROOT / "pyproject.toml"), *arguments)
