"""What others wrote never steers an operator's terminal: no control character reaches it."""

import json
import os
import subprocess
import sys

import pytest

from app.cli.terminal import warn
from app.config import ROOT
from app.limits import escape_invisible

# Escape sequences, C1's one-character form of them, DEL, and text that turns direction.
HOSTILE = "a\x1b[31mb\x9b31mc\x7fd\u202ee\rf"


def is_harmless(text: str) -> bool:
    """Tell whether a terminal shows the text as it is."""
    return all(line.isprintable() for line in text.split("\n"))


def users(*user_ids: str) -> str:
    """Return an export of users of whom every other field is wrong."""
    tokens = [{"hashedToken": HOSTILE, "when": HOSTILE}]
    services = {"resume": {"loginTokens": tokens}}
    return "\n".join(json.dumps({"_id": one, "services": services}) for one in user_ids)


@pytest.mark.parametrize("command", ["sessions", "push-tokens"])
def test_an_import_shows_what_it_rejects_without_them(runner, tmp_path, command):
    file = tmp_path / "export.json"
    file.write_text(users(HOSTILE, f"{HOSTILE}2") + f"\n{HOSTILE}\n")
    result = runner.invoke(args=[command, "import", str(file)])
    assert "line 1: " in result.stderr
    assert is_harmless(result.output)


def test_neither_do_results_and_complaints_hold_them(runner, issuer, database):
    issued = issuer.invoke(args=["service-keys", "issue", HOSTILE, "--scope", "lookup"])
    assert json.loads(issued.stdout)["name"] == HOSTILE
    listed = issuer.invoke(args=["service-keys", "list"])
    assert json.loads(listed.stdout)["name"] == HOSTILE
    revoked = issuer.invoke(args=["service-keys", "revoke", f"{HOSTILE}x"])
    absent = runner.invoke(args=["sessions", "import", f"/nowhere/{HOSTILE}"])
    assert absent.exit_code == 1
    wrong = issuer.invoke(args=["service-keys", "issue", "x", "--scope", HOSTILE])
    unknown = issuer.invoke(args=["service-keys", HOSTILE])
    for result in (issued, listed, revoked, absent, wrong, unknown):
        assert result.output
        assert is_harmless(result.output), ascii(result.output)


def test_what_the_database_refuses_is_one_line_without_its_rows(runner, database):
    database.execute(
        "ALTER TABLE user_sessions ADD CONSTRAINT never CHECK (user_id <> 'secret\x1b[2J')"
    )
    try:
        result = runner.invoke(args=["sessions", "issue", "secret\x1b[2J"])
    finally:
        database.execute("ALTER TABLE user_sessions DROP CONSTRAINT never")
    assert result.exit_code == 1
    assert "the database refuses it: " in result.stderr
    assert "secret" not in result.output
    assert is_harmless(result.output)


def test_all_that_commands_say_on_stderr_is_said_by_one_function():
    for path in (ROOT / "app" / "cli").glob("*.py"):
        is_it = path.name == "terminal.py"
        assert is_it or "err=True" not in path.read_text(), path.name


@pytest.mark.parametrize(
    ("command", "status"),
    [(["sessions", "purge"], 0), (["service-keys", "revoke", "nobody"], 1)],
)
def test_a_command_does_its_work_though_nobody_reads_what_it_says(migrated, command, status):
    url = migrated.issuer if command[0] == "service-keys" else migrated.app
    there, dead = os.pipe()
    os.close(there)
    for stderr in (dead, os.open("/dev/full", os.O_WRONLY)):
        done = subprocess.run(
            [sys.executable, "-m", "flask", *command],
            cwd=ROOT,
            env={**os.environ, "DATABASE_URL": url},
            stdout=subprocess.PIPE,
            stderr=stderr,
            check=False,
        )
        os.close(stderr)
        assert done.returncode == status
        assert isinstance(json.loads(done.stdout), dict)


@pytest.mark.parametrize("text", [HOSTILE, "plain ü 日本 😀", "\U000e0001", "\x85\xa0"])
def test_json_stays_what_it_was(text):
    line = json.dumps({"x": text}, ensure_ascii=False)
    escaped = escape_invisible(line)
    assert json.loads(escaped) == {"x": text}
    assert escaped.isprintable()


def test_nothing_is_said_on_stderr_as_others_wrote_it(capsys):
    warn(f"line 1: {HOSTILE}")
    said = capsys.readouterr().err
    assert said.startswith("line 1: a\ufffd[31mb")
    assert is_harmless(said)
