"""`push-tokens`: the product's command as a whole."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import click
import psycopg
import pytest
from click.testing import CliRunner

from app.cli.commands import source
from app.cli.main import COMMANDS, main
from app.config import ROOT
from app.database.revision import code_revision
from app.version import VERSION
from tests.support.databases import migrate
from tests.support.filled import fill
from tests.support.patience import keeps

BIN = Path(sys.executable).parent
# What a command may need, and its help does not.
HEAVY = {"flask", "sqlalchemy", "psycopg", "alembic", "rich", "orjson", "marshmallow"}


def run(*arguments: str, cwd: Path = ROOT, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a process of its own, without the settings of this one."""
    command = [str(BIN / "push-tokens"), *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environ, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module", autouse=True)
def command():
    """The command of this checkout, as the Makefile puts it beside the Python."""
    script = (ROOT / "app" / "cli" / "push-tokens.sh").read_text()
    assert (BIN / "push-tokens").read_text() == script, "run `make .venv/bin/push-tokens`"


def test_it_tells_the_version(tmp_path):
    done = run("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"push-tokens {VERSION}\n", "")


def test_its_help_is_there_at_once():
    """In under 0.4 s of the processor, as nothing that a command needs is loaded."""

    def used() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert "Commands:" in run("--help").stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    keeps(0.4, used)  # also where the first try compiles what it loads


@pytest.mark.parametrize(
    "does",
    [
        "main(['--help'], standalone_mode=False)",
        "print(BashComplete(main, {}, 'push-tokens', 'X').get_completions([], '')[1].help)",
    ],
    ids=["help", "completion"],
)
def test_nothing_is_loaded_to_list_the_commands(does):
    code = (
        "import sys; from click.shell_completion import BashComplete;"
        f"from app.cli.main import main; {does}; print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    *said, modules = done.stdout.splitlines()
    assert any("Check what the service needs" in line for line in said)
    assert HEAVY.isdisjoint(modules.split())


def test_the_help_names_what_there_is_and_nothing_of_flask_s():
    said = CliRunner().invoke(main, ["--help"]).output.partition("Commands:\n")[2]
    assert [line.split()[0] for line in said.splitlines()] == list(COMMANDS)
    assert {"run", "shell", "routes"}.isdisjoint(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_there_and_tells_of_itself(name):
    done = CliRunner().invoke(main, [name, "--help"])
    assert done.exit_code == 0
    assert done.output.startswith(f"Usage: main {name} ")


def test_flask_has_all_of_them_too(app):
    context = click.Context(main)
    found = {name: app.cli.get_command(context, name) for name in app.cli.list_commands(context)}
    under_flask = {**found, **found["push-tokens"].commands}
    for name in COMMANDS:
        assert under_flask[name] is main.get_command(context, name)


def test_a_command_works_from_any_folder(database_url, tmp_path):
    done = run("stats", "--json", cwd=tmp_path, DATABASE_URL=database_url)
    assert (done.returncode, done.stdout) == (0, '{"registrations":0,"apps":[]}\n')


def test_a_file_that_is_not_there_is_named(runner, tmp_path):
    done = runner.invoke(args=["push-tokens", "import", f"{tmp_path}/none"])
    assert (done.exit_code, done.stderr) == (1, f"Error: {tmp_path}/none: {os.strerror(2)}\n")


def test_without_tables_a_command_says_how_they_are_made(new_database):
    done = run("stats", DATABASE_URL=new_database())
    assert (done.returncode, done.stdout) == (1, "")
    assert "run `push-tokens migrate` as the role that owns the tables" in done.stderr


def test_a_terminal_that_is_not_utf_8_gets_what_it_can_show(database_url):
    settings = {"DATABASE_URL": database_url, "PYTHONIOENCODING": "latin-1"}
    issued = run("sessions", "issue", "zoλ", **settings)
    assert (issued.returncode, json.loads(issued.stdout)["userId"]) == (0, "zoλ")
    assert run("show", "zoλ", **settings).stdout.startswith("User zo?\n0 registrations\n")
    stats = run("stats", **settings)
    assert (stats.returncode, stats.stderr) == (0, "")
    assert json.loads(run("erase", "zoλ", **settings).stdout)["sessions"] == 1


def test_a_stdin_that_is_closed_is_one_line(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(click.ClickException, match="stdin is closed"), source("-"):
        pass


def test_a_help_that_cannot_be_written_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [BIN / "push-tokens", "--help"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr.decode()) == (1, f"Error: {os.strerror(28)}\n")


@pytest.mark.parametrize("name", ["stats", "migrate"])
def test_a_database_that_is_away_is_one_line(name):
    done = run(name, DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1


def test_a_setting_that_cannot_be_used_is_one_line_and_the_doctor_works():
    done = run("stats", DATABASE_URL="mysql://x")
    assert done.stderr == "push-token-registry: DATABASE_URL must be a postgresql:// URI\n"
    assert "wrong    settings: DATABASE_URL" in run("doctor", DATABASE_URL="mysql://x").stdout


def test_migrate_is_alembic_without_its_configuration(new_database, tmp_path, monkeypatch):
    url = new_database()
    assert run("migrate", cwd=tmp_path, DATABASE_URL=url).returncode == 0
    done = run("migrate", "current", cwd=tmp_path, DATABASE_URL=url)
    assert "(head)" in done.stdout
    done = run("migrate", "upgrade", "head", "--sql", cwd=tmp_path, DATABASE_URL=url)
    assert "CREATE TABLE push_tokens" in done.stdout
    monkeypatch.chdir(tmp_path)
    runner = CliRunner(env={"DATABASE_URL": url})
    wrong = runner.invoke(main, ["migrate", "-x", "tries=no", "upgrade", "head"])
    assert (wrong.exit_code, wrong.stderr) == (1, "Error: -x tries: must be a whole number\n")
    assert runner.invoke(main, ["migrate", "no-such"]).exit_code == 2


def test_migrate_says_that_nothing_is_to_do_or_that_the_release_is_old(new_database):
    url = new_database()
    migrate(url, "upgrade", "head")
    runner = CliRunner(env={"DATABASE_URL": url})
    done = runner.invoke(main, ["migrate"])
    said = f"Nothing to migrate: the database is at revision {code_revision()}.\n"
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", said)
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999_later'")
    for arguments in (["migrate"], ["migrate", "current"]):
        done = runner.invoke(main, arguments)
        assert (done.exit_code, done.stdout) == (1, "")
        assert "the database is at revision 9999_later" in done.stderr
        assert "deploy the one that it was migrated for" in done.stderr


def test_migrate_stops_where_rows_are_to_be_filled_or_fills_them(new_database):
    url = new_database()
    migrate(url, "upgrade", "0003_refresh_heavy_tables")
    fill(url)
    done = CliRunner(env={"DATABASE_URL": url}).invoke(main, ["migrate"])
    assert done.exit_code == 1
    assert 'run "push-tokens backfill" and migrate again.' in done.stderr
    assert run("migrate", "--backfill", DATABASE_URL=url).returncode == 0
    with psycopg.connect(url) as connection:
        query = "SELECT DISTINCT environment FROM push_tokens"
        assert connection.execute(query).fetchall() == [("production",)]
