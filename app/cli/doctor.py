"""`push-tokens doctor`: checks what the service needs, and says what is wrong and what to do.

It never prints a password: neither the DATABASE_URL nor any other value that may hold one.
"""

import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict

import click
import psycopg
from flask import Flask, current_app
from flask.cli import with_appcontext

from app.cli import doctor_database, doctor_sinks
from app.cli.doctor_connection import why
from app.cli.finding import Finding
from app.cli.terminal import print_json, printable
from app.config import ConfigError, Settings
from app.database import embedded
from app.database.connections import connector
from app.database.replica import STANDBY_AND_LAG, in_words

CHECKS = ("embedded", *doctor_database.CHECKS, "replica", "upstream", *doctor_sinks.CHECKS)


def examine(settings: Settings | None, problem: str | None = None) -> Iterator[Finding]:
    """Yield the findings, one check after the other.

    `settings` is None where they cannot be used; `problem` is then why the service did not start.
    """
    problems = [] if settings else Settings.problems() or [str(problem)]
    for wrong in problems:
        yield Finding("settings", "wrong", wrong, "set it as the table in README.md says")
    if settings is None:
        for check in CHECKS:
            yield Finding(check, "skipped", "needs usable settings")
        return
    yield Finding("settings", "right", "all can be used")
    yield _embedded(settings)
    yield from doctor_database.examine(settings)
    yield _replica(settings)
    yield _upstream(settings)
    yield from doctor_sinks.examine(settings)


def _embedded(settings: Settings) -> Finding:
    if settings.database_url:
        return Finding("embedded", "right", "not used: DATABASE_URL names a server")
    try:
        embedded.binaries()
        embedded.server.acquire()
    except (ConfigError, RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[-1]
        do = "set DATABASE_URL, or install requirements-run.txt and see instance/postgresql"
        return Finding("embedded", "wrong", printable(reason), do)
    return Finding("embedded", "right", f"runs on {embedded.server.data}")


def _replica(settings: Settings) -> Finding:
    if not settings.database_read_url:
        return Finding("replica", "right", "not used: DATABASE_READ_URL is not set")
    connect = connector(settings, url=settings.database_read_url, writes=False)
    try:
        with closing(connect()) as connection:
            is_standby, lag = connection.execute(STANDBY_AND_LAG).fetchone() or (False, 0)
    except psycopg.Error as error:
        return Finding("replica", "warning", *why(settings, error, "DATABASE_READ_URL"))
    if not is_standby:
        do = "name a streaming standby in DATABASE_READ_URL"
        return Finding("replica", "warning", "is no standby, and counts as current", do)
    if lag > settings.read_max_lag_seconds:
        do = "see pg_stat_wal_receiver there: the primary is read meanwhile"
        return Finding("replica", "warning", f"lags by {in_words(lag)}", do)
    return Finding("replica", "right", f"a standby that lags by {lag:,.1f} s")


def _upstream(settings: Settings) -> Finding:
    if settings.auth_backend == "local":
        return Finding("upstream", "right", "not used: AUTH_BACKEND is local")
    from app.identity.rocketchat import CheckResult, RocketChat  # noqa: PLC0415 (only where it is used)

    url = settings.rocketchat_url or ""
    upstream = RocketChat(url, settings.rocketchat_timeout)
    # No user has these credentials: a Rocket.Chat that answers denies them.
    verdict = upstream.ask(b"", b"flask-doctor", "flask-doctor")
    if verdict is CheckResult.DENIED:
        return Finding("upstream", "right", f"Rocket.Chat answers at {url}")
    problem = upstream.problem or "confirms credentials that no user has"
    do = "correct ROCKETCHAT_URL, or check the proxy in front of Rocket.Chat"
    return Finding("upstream", "wrong", f"{url}: {problem}", do)


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="One JSON line instead of the text.")
@with_appcontext
def doctor(as_json: bool) -> None:
    """Check settings, database, role, Rocket.Chat and clock, and say what to do.

    Exit status 0: nothing is wrong; warnings do not count.
    """
    found = []
    extensions = current_app.extensions
    shared = extensions.get("push_registry")
    for finding in examine(shared and shared.settings, extensions.get("config_problem")):
        found.append(finding)
        if not as_json:
            click.echo(f"{finding.state:8} {finding.check}: {printable(finding.says)}")
            if finding.do:
                click.echo(f"{'':8} → {printable(finding.do)}")
    is_ok = all(finding.state in ("right", "warning") for finding in found)
    if as_json:
        print_json(ok=is_ok, checks=[asdict(finding) for finding in found])
    if not is_ok:
        raise SystemExit(1)


def patient(error: ConfigError, arguments: list[str] | None = None) -> Flask:
    """Return an app with this command only, for settings that cannot be used.

    Raises the error for any other command.
    """
    if (sys.argv if arguments is None else arguments)[1:2] != ["doctor"]:
        raise error
    app = Flask(__name__, static_folder=None)
    app.extensions["config_problem"] = error.problem
    app.cli.add_command(doctor)
    return app
