"""The roles of deploy/postgresql/roles.sql, under names of a test run's own."""

import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql

from app.config import ROOT
from app.database import embedded
from tests.support.databases import migrate
from tests.support.factories import uri

KINDS = ("owner", "app", "issuer", "report")


def psql(url: str, script: str, *arguments: str) -> None:
    """Apply a script; stop at the first error."""
    command = [str(embedded.binaries() / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", *arguments]
    command.append(url)
    # A script drops what may not be there, and a notice says that it was not.
    environ = {**os.environ, "PGOPTIONS": "-c client_min_messages=warning"}
    done = subprocess.run(
        command, input=script, env=environ, capture_output=True, text=True, check=False
    )
    assert not done.stderr, done.stderr
    assert not done.returncode


def partition(url: str, number: int = 16) -> None:
    """Make push_tokens a table of so many partitions; 0: a plain one again."""
    script = (ROOT / "deploy" / "postgresql" / "partition.sql").read_text()
    psql(url, script, "-v", f"partitions={number}")


@dataclass(frozen=True)
class Roles:
    """The roles of a database."""

    database: str
    names: dict[str, str]
    password: str
    schema: str = "public"

    @classmethod
    @contextmanager
    def on(cls, database: str, schema: str = "public") -> Iterator["Roles"]:
        """Make the roles on an empty database, and drop them at the end."""
        suffix = secrets.token_hex(6)
        roles = cls(database, {kind: f"test_{kind}_{suffix}" for kind in KINDS}, suffix, schema)
        roles.grant()
        roles._execute("ALTER ROLE {} PASSWORD {}")
        try:
            yield roles
        finally:
            roles._execute("REASSIGN OWNED BY {} TO CURRENT_USER")
            roles._execute("DROP OWNED BY {}")
            roles._execute("DROP ROLE {}")

    @classmethod
    @contextmanager
    def migrated(cls, database: str, schema: str = "public") -> Iterator["Roles"]:
        """Do as `on`, migrate as the owner, and give the rights on what that made."""
        with cls.on(database, schema) as roles:
            migrate(roles.url("owner"), "upgrade", "head")
            roles.grant()
            yield roles

    def _execute(self, statement: str) -> None:
        """Execute a statement for each role, over a connection that no test can have ended."""
        with psycopg.connect(self.database, autocommit=True) as connection:
            for name in self.names.values():
                values = (sql.Identifier(name), self.password)
                connection.execute(sql.SQL(statement).format(*values))

    def grant(self) -> None:
        """Run roles.sql."""
        names = [part for kind, name in self.names.items() for part in ("-v", f"{kind}={name}")]
        if self.schema != "public":
            names += ["-v", f"schema={self.schema}"]
        psql(self.database, (ROOT / "deploy" / "postgresql" / "roles.sql").read_text(), *names)

    def url(self, kind: str) -> str:
        """Return the URI by which a role uses the database."""
        more = {} if self.schema == "public" else {"options": f"-csearch_path={self.schema}"}
        return uri(self.database, user=self.names[kind], password=self.password, **more)
