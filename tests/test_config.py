"""Settings: typed, checked at start, and all in the README."""

import os
import re
import subprocess
import sys
from dataclasses import fields

import pytest
from psycopg.conninfo import conninfo_to_dict

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
    with pytest.raises(ConfigError, match="DATABASE_READ_URL is not a URI"):
        create_app(Settings(database_url="postgresql:///x", database_read_url=url))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://app:Top@s3cret@host/db",
        "postgresql://app:Top/s3cret@host/db",
        "postgresql://app:5432/s3cret@host/db",
        "postgresql://app:Top@5432:s3cret@host/db",
        "postgresql://app:a?b@s3cret@host/db",
        "postgresql://app:a@b?s3cret@host/db",
        "postgresql://app%3As3cret@host/db",
        "postgresql://app:x@host:54s3cret/db",
        "postgresql://app:s3cret\udcff@host/db",  # bytes that are not UTF-8
        "postgresql://app:%zzs3cret@host/db",
        "postgresql://app:s3 cret@host/db",
    ],
)
def test_a_uri_whose_password_would_be_taken_for_a_host_is_refused(url):
    with pytest.raises(ConfigError) as error:
        create_app(Settings.from_env({"DATABASE_URL": url}))
    assert "cret" not in str(error.value.code)
    assert not error.value.__context__ or error.value.__suppress_context__


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("postgresql://app:s3cret℀x@h/db", {"password": "s3cret℀x", "host": "h"}),
        ("postgresql://app:hello[s3cret]x@h/db", {"password": "hello[s3cret]x", "host": "h"}),
        ("postgresql://app:a?b#c:d@h/db", {"password": "a?b#c:d", "host": "h"}),
        ("postgresql://app:%40%2F@h/db", {"password": "@/", "host": "h"}),
        ("postgres://app:p@[::1]:1,[::2]:2/db", {"host": "::1,::2", "port": "1,2"}),
        ("postgresql://app:p@[::1],[::2]/db", {"host": "::1,::2"}),
        ("postgresql://app@%2Frun%2Fpg,h/db", {"host": "/run/pg,h"}),
        ("postgresql:///db?host=/run/a@b&user=x", {"host": "/run/a@b"}),
    ],
)
def test_libpq_alone_judges_a_uri(url, named):
    settings = Settings.from_env({"DATABASE_URL": url})
    create_app(settings)
    assert named.items() <= conninfo_to_dict(settings.database_url).items()


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
        timeout=300,
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
