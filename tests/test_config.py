"""Settings: typed, checked at start, and all in the README."""

import os
import re
import subprocess
import sys
from dataclasses import fields

import pytest

from app import create_app
from app.config import ROOT, ConfigError, Settings, without_setting


def test_an_empty_environment_gives_the_defaults():
    assert Settings.from_env({"DATABASE_URL": "", "PORT": " "}) == Settings()


def test_values_are_typed():
    settings = Settings.from_env({"PORT": "81", "REQUEST_DEADLINE": "2.5", "LOG_LEVEL": "DEBUG"})
    assert (settings.port, settings.request_deadline) == (81, 2.5)
    assert settings.log_level == "debug"


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("DATABASE_URL", "mysql://secret@host/x", "must be a postgresql:// URI"),
        ("PORT", "http", "must be a whole number from 1 to 65535, not 'http'"),
        ("PORT", "0", "must be a whole number from 1 to 65535, not '0'"),
        ("SESSION_DAYS", "1.5", "must be a whole number from 1 to 36500, not '1.5'"),
        ("REQUEST_DEADLINE", "nan", "must be a number from 0.1 to 300, not 'nan'"),
        ("DATABASE_STATEMENT_TIMEOUT", "-1", "must be a number from 0.1 to 3600, not '-1'"),
        ("LOG_LEVEL", "loud", "must be debug, info, warning or error, not 'loud'"),
    ],
)
def test_an_unusable_value_is_named_in_one_line(variable, value, problem):
    with pytest.raises(ConfigError) as error:
        Settings.from_env({variable: value})
    assert error.value.code == f"push-token-registry: {variable} {problem}"


def test_a_uri_that_libpq_cannot_read_stops_the_start_and_is_not_shown():
    url = "postgresql://user:secret@host/db?nonsense=1"
    with pytest.raises(ConfigError) as error:
        create_app(Settings(database_url=url))
    assert "secret" not in str(error.value.code)


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "flask", "sessions", "issue", "x"],
        ["-m", "alembic", "upgrade", "head"],
        ["-m", "gunicorn", "-c", "python:app.gunicorn_conf", "wsgi:app"],
        ["-m", "app.run"],
    ],
)
@pytest.mark.parametrize(
    ("variable", "value"), [("SESSION_DAYS", "x"), ("DATABASE_URL", "postgresql://h/d?bad=1")]
)
def test_every_entry_says_it_in_one_line(command, variable, value, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql:///none?host=/nowhere")
    monkeypatch.setenv(variable, value)
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if '"level":"INFO"' not in line]
    assert line.startswith(f"push-token-registry: {variable} ")


def test_the_readme_lists_every_setting_with_its_default():
    rows = re.findall(r"^\| `([A-Z_]+)` \|(.*?)\|", (ROOT / "README.md").read_text(), re.M)
    shown = {name: default.strip(" `") for name, default in rows}
    expected = {
        setting.name.upper(): "" if setting.default is None else str(setting.default)
        for setting in fields(Settings)
    }
    assert shown == expected


def test_nothing_else_reads_the_environment():
    readers = [
        path.name
        for path in (ROOT / "app").rglob("*.py")
        if re.search(r"\bos\.(environ|getenv)\b", path.read_text())
    ]
    assert readers == ["config.py"]


@pytest.mark.parametrize("value", ["/var/metrics", None])
def test_a_setting_that_is_left_out_comes_back_whatever_happens(monkeypatch, value):
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    if value is not None:
        monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", value)

    def fail() -> None:
        with without_setting("prometheus_multiproc_dir"):
            assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert os.environ.get("PROMETHEUS_MULTIPROC_DIR") == value
