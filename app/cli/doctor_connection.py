"""Why `push-tokens doctor` cannot connect, and what to do: by what libpq or a pooler said."""

import psycopg

from app.cli.terminal import printable
from app.config import Settings
from app.database.session_settings import WrongEncodingError

# `{url}` is the variable that names the server.
# libpq gives no SQLSTATE for a connection that was refused, only text, in the server's language.
CAUSES = (
    (
        "unsupported startup parameter",
        "it is a pooler: set DATABASE_POOLER=transaction, and give `push-tokens migrate` and"
        " imports a DATABASE_URL that names PostgreSQL itself",
    ),
    ("password authentication failed", "correct user and password in {url}"),
    ("no password supplied", "add the password to {url}, or a passfile"),
    ("pg_hba.conf", "have pg_hba.conf on the server allow this host, user and database"),
    ("permission denied for database", "have a superuser run deploy/postgresql/roles.sql on it"),
    (
        "too many clients",
        "raise max_connections of the server, or lower WEB_CONCURRENCY or DATABASE_POOL_SIZE",
    ),
    (
        "connection slots are reserved",
        "raise max_connections of the server, or lower WEB_CONCURRENCY or DATABASE_POOL_SIZE",
    ),
    ("too many connections for", "raise the CONNECTION LIMIT of the role or database"),
    ("no more connections allowed", "raise max_client_conn of the pooler"),
    ("is not permitted to log in", "have a superuser ALTER ROLE … LOGIN, or name another role"),
    ("is not currently accepting connections", "ALTER DATABASE … ALLOW_CONNECTIONS true"),
    ("certificate", "correct sslrootcert, sslmode and the host's name in {url}"),
    ("server does not support SSL", "switch SSL on at the server, or correct sslmode"),
    ("the database system is", "wait until the server has started or recovered; see its log"),
    ("could not translate host name", "correct the host in {url}, or DNS"),
    ("failed to resolve host", "correct the host in {url}, or DNS"),
    ("timeout", "look whether host and port are right and a firewall lets this host through"),
    ("Connection refused", "start the server, or correct host and port in {url}"),
    ("No such file or directory", "start the server, or correct the socket's folder"),
)
MISSING = {
    "database": "make it with `createdb --encoding=UTF8 --template=template0 NAME`, or correct"
    " its name in {url}",
    "role": "have a superuser run deploy/postgresql/roles.sql, or correct {url}'s user",
}


def in_a_line(error: BaseException) -> str:
    """Return an error's text in a line.

    It holds no password: libpq names hosts, users and databases only, and a URI of whose password
    it takes a part for one of these is refused before (`connections.check_url`).
    """
    return printable(" ".join(str(error).split()))


def why(
    settings: Settings, error: BaseException, variable: str = "DATABASE_URL"
) -> tuple[str, str]:
    """Return what is wrong with the connection that a variable names, and what to do."""
    text = in_a_line(error)
    if isinstance(error, WrongEncodingError):
        says, _, do = text.partition(": ")
        return says, do
    if not isinstance(error, psycopg.Error):
        return f"cannot be reached: {text}", f"see instance/postgresql, or set {variable}"
    says = f"cannot be reached: {text}"
    if "does not exist" in text:  # `FATAL: role "x" does not exist`, and so for a database
        kind = "role" if "role " in text.rpartition("FATAL")[2] else "database"
        return says, MISSING[kind].format(url=variable)
    if "no such database" in text and settings.database_pooler is None:  # PgBouncer's words
        return says, f"correct the database in {variable}, or add it to the pooler's [databases]"
    for said, do in CAUSES:
        if said in text:
            return says, do.format(url=variable)
    return says, f"start the server, or correct {variable}"
