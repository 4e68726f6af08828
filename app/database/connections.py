"""Opens connections to PostgreSQL, for every pool and command."""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Engine, event
from sqlalchemy.exc import DisconnectionError

from app import metrics
from app.config import ConfigError, Settings
from app.database import embedded, session_settings
from app.database.failures import is_end
from app.database.session_settings import ReadOnlyServerError
from app.models import db

# Close a connection this many seconds after statement_timeout if the server stays silent: one
# that still answers ends a slow statement itself.
SILENCE_TIMEOUT = 1.0
# Seconds for which a command waits for a lock: what it holds meanwhile, requests wait for.
BATCH_LOCK_TIMEOUT = 30.0


class Connection(psycopg.Connection[Any]):
    """A connection on which no wait is endless.

    The server enforces `statement_timeout`, but not when it is frozen or the network drops
    packets. Then this side stops waiting and closes the connection, whose state is unknown.
    """

    patience: float | None = None
    limits: str | None = None  # behind a pooler, the query by which a transaction sets its limits

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Run one exchange with the server; OperationalError when it takes over `patience`."""
        try:
            return super().wait(gen, interval, timeout or self.patience)
        except errors._WaitTimeout:
            self.pgconn.finish()
            raise psycopg.OperationalError("the database does not answer") from None


def connector(
    settings: Settings, *, url: str | None = None, batch: bool = False, writes: bool = True
) -> Callable[..., Connection]:
    """Return the function that opens a connection, for every pool and command.

    It is to the DATABASE_URL, or to another `url`. Without a DATABASE_URL the embedded server
    starts with the first connection. A `batch`
    connection belongs to a command whose statements may take long. One that `writes` is made to a
    host of the URI that takes writes; ReadOnlyServerError where there is none. Parameters of the
    URI (`connect_timeout`, `options`) override the limits, but not what the statements rely on
    (session_settings.py).

    Behind a pooler in transaction mode the server's session serves another client after each
    transaction. So no statement is prepared and no session setting is made in it, and each
    transaction begins with `Connection.limits`. Raises ConfigError for `batch` there, because a
    batch needs a session of its own.
    """
    pooled = settings.database_pooler is not None
    if pooled and batch:
        problem = "must be unset for this command, and DATABASE_URL name PostgreSQL itself"
        raise ConfigError("DATABASE_POOLER", problem)
    lock_timeout_here = BATCH_LOCK_TIMEOUT if batch else settings.database_lock_timeout

    def connect(
        lock_timeout: float = lock_timeout_here,
        session: Mapping[str, str] = MappingProxyType({}),
        autocommit: bool = False,
        **kwargs: Any,
    ) -> Connection:
        limits = _limits(settings, session, lock_timeout, is_batch=batch)
        conninfo = url or settings.database_url or embedded.server.acquire()
        if pooled:
            kwargs["prepare_threshold"] = None
        else:
            kwargs["options"] = _options(limits, conninfo)
        if writes:
            kwargs["target_session_attrs"] = "read-write"
        connection = _opened(conninfo, settings, **kwargs)
        try:
            connection.patience = settings.database_statement_timeout + SILENCE_TIMEOUT
            session_settings.check_encoding(connection)
            _bring_settings(connection, limits if pooled else None, batch=batch)
            if batch:
                connection.patience = None
            connection.autocommit = autocommit
        except BaseException:  # Ctrl-C too: nobody else has it to close
            connection.close()
            raise
        return connection

    return connect


def _limits(
    settings: Settings, session: Mapping[str, str], lock_timeout: float, *, is_batch: bool
) -> dict[str, str]:
    """Return what a session is limited by, and its other settings."""
    limits = {"synchronous_commit": "on", **session}  # what is answered with 200 survives
    limits["lock_timeout"] = _milliseconds(lock_timeout)
    if not is_batch:
        limits["statement_timeout"] = _milliseconds(settings.database_statement_timeout)
    return limits


def _options(limits: Mapping[str, str], conninfo: str) -> str:
    """Return the parameter `options` that sets the limits, but for those that the URI has."""
    options = " ".join(f"-c {name}={value}" for name, value in limits.items())
    return f"{options} {conninfo_to_dict(conninfo).get('options', '')}".strip()


def _opened(conninfo: str, settings: Settings, **parameters: Any) -> Connection:
    """Connect; ReadOnlyServerError where libpq found no host that takes writes."""
    named = conninfo_to_dict(conninfo)
    try:
        return Connection.connect(
            conninfo,
            connect_timeout=named.get("connect_timeout", settings.database_connect_timeout),
            application_name=named.get("application_name", "push-token-registry"),
            client_encoding=session_settings.ENCODING,
            autocommit=True,
            **parameters,
        )
    except psycopg.OperationalError as error:
        if "session is read-only" in str(error):
            raise ReadOnlyServerError(str(error)) from None
        raise


def _bring_settings(
    connection: Connection, limits: Mapping[str, str] | None, *, batch: bool
) -> None:
    """Set what is relied on: for the session, or with the `limits` in each transaction."""
    version = connection.info.server_version
    if limits is not None:
        settings = {**session_settings.RELIED_ON, **limits}
        connection.limits = session_settings.statement(settings, version, is_local=True)
        # psycopg says it in BEGIN; a setting within the transaction would come too late.
        connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        return
    relied_on = session_settings.RELIED_ON_BY_BATCHES if batch else session_settings.RELIED_ON
    connection.execute(session_settings.statement(relied_on, version, is_local=False))


def _milliseconds(seconds: float) -> str:
    return f"{int(seconds * 1000)}ms"


def pool_options(settings: Settings, connect: Callable[..., Connection]) -> dict[str, Any]:
    """Return SQLAlchemy's options for a pool of connections."""
    return {
        "creator": connect,
        "pool_size": settings.database_pool_size,
        "max_overflow": 0,
        "pool_timeout": settings.request_deadline,
        "pool_use_lifo": True,
        "pool_recycle": settings.database_max_age_seconds,
        # Which way of registry/ways.py the verbs go.
        "execution_options": {"distributed": settings.database_distributed is not None},
        "hide_parameters": True,  # they are push tokens and hashes; errors are logged
    }


def listen(engine: Engine) -> None:
    """Have an engine's transactions set their limits, and its pool notice what has ended."""
    event.listen(engine, "begin", _begin)
    event.listen(engine, "handle_error", _notice_end)


def init_app(app: Any, settings: Settings, connect: Callable[..., Connection]) -> None:
    """Give a Flask app its pool of connections, `db.engine`."""
    app.config["SQLALCHEMY_DATABASE_URI"] = "postgresql+psycopg://"
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = pool_options(settings, connect)
    db.init_app(app)
    with app.app_context():
        event.listen(db.engine.pool, "checkout", _replace_fenced)  # before it is counted
        metrics.watch(db.engine.pool, settings.database_pool_size)
        listen(db.engine)


def _begin(pooled: Any) -> None:
    """Set the limits of a transaction behind a pooler, where a session cannot keep them."""
    if limits := pooled.connection.dbapi_connection.limits:
        pooled.exec_driver_sql(limits)


def _replace_fenced(connection: Connection, *_: object) -> None:
    """Have the pool replace a connection whose server takes no more writes, also for reads.

    It is no longer the primary: what it reads is what was there when it was fenced.
    """
    if session_settings.is_fenced(connection.pgconn):
        raise DisconnectionError("the server takes no more writes")


def _notice_end(context: Any) -> None:
    """Have the pool drop a connection that the server has ended."""
    if is_end(context.original_exception):
        context.is_disconnect = True


def check_url(settings: Settings) -> None:
    """Raise ConfigError for a URI that libpq cannot read, or reads amiss.

    No message repeats any of it, as libpq's own do: it may hold a password.
    """
    for variable in ("DATABASE_URL", "DATABASE_READ_URL"):
        if url := getattr(settings, variable.lower()):
            _check(variable, url)


def _check(variable: str, url: str) -> None:
    try:
        named = conninfo_to_dict(url)
    except UnicodeError:
        raise ConfigError(variable, "is not UTF-8") from None
    except psycopg.ProgrammingError:
        raise ConfigError(variable, "is not a URI that libpq can read") from None
    if _is_misread(url, named):
        problem = "must have @ as %40, / as %2F and : as %3A within its user and password"
        raise ConfigError(variable, problem)


def _is_misread(url: str, named: Mapping[str, Any]) -> bool:
    """Tell whether libpq takes a part of the password for something else.

    It splits at the first `@` and `/`. The rest of a password that holds one becomes a host, a
    port or a database, which errors name.
    """
    hosts = str(named.get("host", "")).split(",")
    ports = str(named.get("port", "")).split(",")
    # After the credentials, as libpq finds them; a `?` within them is no query.
    rest = re.sub(r"^[^@/]*@", "", url.partition("://")[2])
    return (
        any("@" in host and not host.startswith(("@", "/")) for host in hosts)
        or any(port and not (port.isascii() and port.isdigit()) for port in ports)
        or "@" in rest.partition("?")[0]
        or ":" in str(named.get("user", ""))
    )
