"""Migrating a database in use: deployers and locks, with revisions made for the purpose."""

import os
import statistics
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import alembic.config
import psycopg
import pytest

from app.config import ROOT
from tests.support.databases import migrate
from tests.support.roles import partition
from tests.support.scripts import SCRIPTS

HEAD = SCRIPTS.get_current_head()
ADD_COLUMN = 'op.execute("ALTER TABLE push_tokens ADD COLUMN note text")'
WRITE = "DELETE FROM push_tokens"
BUILD_INDEX = 'operations.create_index("ix_try", "push_tokens", ["type"])'

CONFIG = """
[alembic]
script_location = {root}/migrations
version_locations = {root}/migrations/versions:{folder}
path_separator = :
prepend_sys_path = {root}
"""

REVISION = """
from alembic import op
from migrations import operations

revision, down_revision = {name!r}, {before!r}


def upgrade():
    {upgrade}


def downgrade():
    {downgrade}
"""


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Return exit status and the rest of what it says."""
    said, _ = process.communicate(timeout=180)
    return process.returncode, said


class Deployer:
    """Alembic as a deployer runs it, on a database at the head and with revisions beyond it."""

    def __init__(self, folder: Path, url: str):
        self.folder, self.url = folder, url
        self.last = HEAD
        (folder / "alembic.ini").write_text(CONFIG.format(root=ROOT, folder=folder))

    def add(self, name: str, upgrade: str, downgrade: str = "pass") -> None:
        """Write a revision after the last one."""
        text = REVISION.format(name=name, before=self.last, upgrade=upgrade, downgrade=downgrade)
        (self.folder / f"{name}.py").write_text(text)
        self.last = name

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "alembic", "-c", str(self.folder / "alembic.ini")]
        return subprocess.Popen(
            [*command, *(arguments or ("upgrade", "head"))],
            env={**os.environ, "DATABASE_URL": self.url},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run to the end, in this process; return exit status and what it said."""
        said, code = StringIO(), 0
        argv = ["-c", str(self.folder / "alembic.ini"), *(arguments or ("upgrade", "head"))]
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
            patch.setenv("DATABASE_URL", self.url)
            try:
                alembic.config.main(argv)
            except SystemExit as ended:
                code = ended.code
        return code, said.getvalue()

    def revision(self) -> str:
        with psycopg.connect(self.url) as connection:
            return connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]


@pytest.fixture(scope="module")
def in_use(new_database) -> str:
    url = new_database()
    migrate(url, "upgrade", "head")
    return url


@pytest.fixture
def deployer(tmp_path, in_use):
    """A deployer whose revisions are taken back at the end."""
    deployer = Deployer(tmp_path, in_use)
    yield deployer
    with psycopg.connect(in_use, autocommit=True) as connection:
        connection.execute("ALTER TABLE push_tokens DROP COLUMN IF EXISTS note")
        connection.execute("DROP INDEX IF EXISTS ix_try")
        connection.execute("DELETE FROM user_sessions")
        connection.execute("UPDATE alembic_version SET version_num = %s", [HEAD])


@contextmanager
def using(url: str, statement: str = "SELECT count(*) FROM push_tokens"):
    """A transaction that has used the table and does not end."""
    with psycopg.connect(url) as connection:
        connection.execute(statement)
        yield connection
        connection.rollback()


def listen(process: subprocess.Popen[str], text: str) -> None:
    """Read what the deployer says until it says this."""
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(f"never said {text!r}")


def has_column(url: str) -> bool:
    query = (
        "SELECT FROM pg_attribute WHERE attrelid = 'push_tokens'::regclass AND attname = 'note'"
    )
    with psycopg.connect(url) as connection:
        return connection.execute(query).fetchone() is not None


def index(url: str, name: str = "ix_try") -> tuple[bool, bool] | None:
    """Return whether the index is valid and unique."""
    query = "SELECT indisvalid, indisunique FROM pg_index WHERE indexrelid = to_regclass(%s)"
    with psycopg.connect(url) as connection:
        return connection.execute(query, [name]).fetchone()


def test_a_table_in_use_is_tried_again_and_nobody_waits_for_the_deployer(deployer):
    deployer.add("0091_column", ADD_COLUMN)
    took, done = [], threading.Event()

    def write() -> None:
        with psycopg.connect(deployer.url, autocommit=True) as connection:
            while not done.is_set():
                start = time.monotonic()
                connection.execute("DELETE FROM push_tokens WHERE id = 'x'")
                took.append(time.monotonic() - start)
                time.sleep(0.01)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with using(deployer.url):
            process = deployer.start()
            listen(process, "A table is in use: try 3 of 30")
        code, said = end(process)
    finally:
        done.set()
        writer.join()
    assert code == 0
    assert f"upgrade {HEAD} -> 0091_column" in said
    assert has_column(deployer.url)
    # It did queue, each time for less than the service's lock timeout of 1 s.
    assert statistics.median(one for one in took if one > 0.1) < 0.9


def test_a_table_that_stays_in_use_fails_with_nothing_done(deployer):
    deployer.add("0091_column", ADD_COLUMN)
    with using(deployer.url):
        code, said = deployer.run("-x", "tries=2", "upgrade", "head")
    assert code != 0
    assert "a table stayed in use for 2 tries" in said
    assert "Traceback" not in said
    assert (deployer.revision(), has_column(deployer.url)) == (HEAD, False)


def test_a_new_try_goes_on_where_the_last_one_failed_and_no_further(deployer):
    deployer.add("0091_nothing", "pass")
    deployer.add("0092_column", ADD_COLUMN)
    deployer.add("0093_nothing", "pass")
    with using(deployer.url):
        process = deployer.start("upgrade", "+2")
        listen(process, "try 2")
        assert deployer.revision() == "0091_nothing"
    assert end(process)[0] == 0
    assert deployer.revision() == "0092_column"


def test_a_statement_that_takes_too_long_fails_with_nothing_done(deployer):
    deployer.add("0091_slow", f'{ADD_COLUMN}; op.execute("SELECT pg_sleep(20)")')
    code, said = deployer.run("-x", "statement_timeout=300ms", "upgrade", "head")
    assert code != 0
    assert "due to statement timeout" in said
    assert "a statement may take 300ms" in said
    assert "Traceback" not in said
    assert (deployer.revision(), has_column(deployer.url)) == (HEAD, False)


@pytest.mark.parametrize("argument", ["lock=2s", "tries=many"])
def test_an_argument_that_is_not_known_is_refused(deployer, argument):
    code, said = deployer.run("-x", argument, "upgrade", "head")
    assert code != 0
    assert f"-x {argument.split('=')[0]}: must be" in said


def test_a_second_deployer_waits_and_is_not_waited_for(deployer):
    """One that waited within a statement would be waited for by a concurrent index: deadlock."""
    deployer.add("0091_index", BUILD_INDEX)
    with using(deployer.url, WRITE):  # the build waits for it, and the second deployer for that
        first = deployer.start()
        while index(deployer.url) is None:
            time.sleep(0.05)
        second = deployer.start()
        listen(second, "Another deployer is migrating this database")
        time.sleep(1.5)  # deadlock_timeout is 1 s
    assert "upgrade" in end(first)[1]
    assert "upgrade" not in end(second)[1]
    assert (first.returncode, second.returncode) == (0, 0)
    assert index(deployer.url) == (True, False)


def test_an_index_left_invalid_is_built_anew(deployer):
    rows = "SELECT i::text, i::text, 'a', i::text, 'apn', 'u', 'x' FROM generate_series(1, 2) i"
    with psycopg.connect(deployer.url, autocommit=True) as connection:
        connection.execute("INSERT INTO user_sessions (token_hash, user_id) VALUES ('x', 'u')")
        connection.execute(
            "INSERT INTO push_tokens"
            f" (id, device_id, app_name, token, type, user_id, session_hash) {rows}"
        )
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("CREATE UNIQUE INDEX CONCURRENTLY ix_try ON push_tokens (type)")
    assert index(deployer.url) == (False, True)
    deployer.add("0091_index", BUILD_INDEX)
    assert deployer.run()[0] == 0
    assert index(deployer.url) == (True, False)


def test_an_index_whose_build_is_cut_short_is_built_by_the_next_deployer(deployer):
    drop = 'operations.drop_index("ix_try", "push_tokens")'
    deployer.add("0091_index", BUILD_INDEX, drop)
    with using(deployer.url, WRITE) as holder:
        process = deployer.start()
        while index(deployer.url) is None:
            time.sleep(0.05)
        holder.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE query LIKE 'CREATE INDEX CONCURRENTLY % ix_try%'"
            " AND datname = current_database()"
        )
        assert end(process)[0] != 0
    assert (deployer.revision(), index(deployer.url)) == (HEAD, (False, False))
    assert deployer.run()[0] == 0
    assert (deployer.revision(), index(deployer.url)) == ("0091_index", (True, False))
    assert deployer.run("downgrade", HEAD)[0] == 0
    assert index(deployer.url) is None


def test_partitions_get_their_indexes_while_rows_are_written(deployer):
    """None is built concurrently for all of them at once; see deploy/postgresql/partition.sql."""
    deployer.add("0091_index", BUILD_INDEX, 'operations.drop_index("ix_try", "push_tokens")')
    partition(deployer.url)
    try:
        with using(deployer.url, WRITE):
            process = deployer.start()
            while index(deployer.url, "ix_try_of_push_tokens_p16_0") is None:
                time.sleep(0.05)
        assert end(process)[0] == 0
        assert index(deployer.url) == (True, False)
        assert deployer.run("downgrade", HEAD)[0] == 0
        assert index(deployer.url) is None
    finally:
        partition(deployer.url, 0)


def test_claiming_a_table_waits_longer_than_a_lock_and_stops_no_writer(deployer):
    deployer.add("0091_claim", f'operations.lock_table("push_tokens"); {ADD_COLUMN}')
    vacuum = "LOCK TABLE push_tokens IN SHARE UPDATE EXCLUSIVE MODE"  # as a VACUUM takes it
    with using(deployer.url, vacuum):
        process = deployer.start("-x", "tries=1", "upgrade", "head")
        time.sleep(2)  # over lock_timeout; the start of Alembic takes a second at most
        with psycopg.connect(deployer.url, autocommit=True) as connection:
            connection.execute("SET lock_timeout = '100ms'")
            connection.execute("DELETE FROM push_tokens")
    assert end(process)[0] == 0
    assert has_column(deployer.url)


def test_a_new_revision_starts_from_the_rules(deployer):
    name = ("--rev-id", "0091_try", "-m", "Try it")
    assert deployer.run("revision", *name, "--version-path", str(deployer.folder))[0] == 0
    text = (deployer.folder / "0091_try.py").read_text()
    assert "It works beside the previous release of the code" in text
    assert deployer.run()[0] == 0
    assert deployer.revision() == "0091_try"
    ruff = [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml")]
    unused = ["--ignore", "F401", str(deployer.folder / "0091_try.py")]
    done = subprocess.run([*ruff, *unused], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stdout
