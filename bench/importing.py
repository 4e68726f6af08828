"""`make bench-import`: `push-tokens import` beside a bare COPY of the same rows, in one run.

Makes a database of its own on DATABASE_URL's server, or the embedded one, and drops it. The bare
COPY goes into a table like push_tokens, with its indexes and its foreign key, whose sessions are
there. The import is measured with these sessions known, and with all of them unknown: the dearest
case, as it has to make a session for each row.
"""

import hashlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from app.config import Settings
from app.database import embedded

BIN = Path(sys.executable).parent
START = datetime(2024, 1, 1, tzinfo=UTC)


def row(number: int) -> tuple[str, str, str, str, bytes, datetime]:
    """Return (id, app name, token, user id, session hash, date) of a made-up device."""
    seed = hashlib.sha512(number.to_bytes(8)).digest()
    token = b64encode(seed + seed[::-1]).decode()[:163]
    app = "chat.rocket.ios" if number % 3 else "chat.rocket.android"
    user = f"user{int.from_bytes(seed[:3]) % 400_000:013}"
    moment = START + timedelta(seconds=number * 30)
    return seed[:9].hex()[:17], app, token, user, hashlib.sha256(seed).digest(), moment


def write_files(export: Path, copy: Path, rows: int) -> None:
    """Write the same rows as mongoexport and as COPY have them."""
    with export.open("w") as documents, copy.open("w") as lines:
        for number in range(rows):
            id_, app, token, user, session, moment = row(number)
            stamp = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            document = {
                "_id": id_,
                "token": {"gcm": token},
                "authToken": b64encode(session).decode(),
                "appName": app,
                "userId": user,
                "enabled": True,
                "createdAt": {"$date": stamp},
                "updatedAt": {"$date": stamp},
                "metadata": {},
            }
            documents.write(json.dumps(document, separators=(",", ":")) + "\n")
            fields = (id_, app, token, "gcm", user, "\\\\x" + session.hex(), "t", stamp, stamp)
            lines.write("\t".join([*fields, "production"]) + "\n")


def bare_copy(url: str, copy: Path) -> tuple[float, float]:
    """Return the seconds that the bare COPY takes, and the last tenth's rate to the second's."""
    size, marks = copy.stat().st_size, []
    with psycopg.connect(url, autocommit=True) as connection, copy.open("rb") as lines:
        connection.execute("CREATE TABLE bare (LIKE push_tokens INCLUDING ALL)")
        connection.execute(
            "ALTER TABLE bare ADD FOREIGN KEY (session_hash) REFERENCES user_sessions"
            " ON DELETE CASCADE"
        )
        started = time.perf_counter()
        with connection.cursor().copy("COPY bare FROM STDIN") as target:
            while chunk := lines.read(1 << 18):
                if lines.tell() * 10 >= size * (len(marks) + 1):
                    marks.append(time.perf_counter())
                target.write(chunk)
        ended = time.perf_counter()
        connection.execute("DROP TABLE bare")
        return ended - started, (marks[1] - marks[0]) / (marks[-1] - marks[-2])


def put_sessions(url: str, copy: Path) -> None:
    """Make the sessions of all rows known."""
    with psycopg.connect(url, autocommit=True) as connection, copy.open() as lines:
        with (
            connection.cursor() as cursor,
            cursor.copy("COPY user_sessions (token_hash, user_id) FROM STDIN") as target,
        ):
            for line in lines:
                fields = line.split("\t")
                target.write(f"{fields[5]}\t{fields[4]}\n")
        connection.execute("VACUUM (ANALYZE) user_sessions")


def timed_import(url: str, export: Path, rows: int) -> tuple[float, float, float]:
    """Return seconds in all, and rows a second in the second and in the last tenth."""
    command = [f"{BIN}/flask", "push-tokens", "import", "-"]
    started = time.perf_counter()
    marks = []
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, env={**os.environ, "DATABASE_URL": url}
    ) as process:
        with export.open("rb") as documents:
            for number, line in enumerate(documents):
                if number % (rows // 10) == 0:
                    marks.append(time.perf_counter())
                process.stdin.write(line)
        process.stdin.close()
        if process.wait():
            sys.exit("the import failed")
    ended = time.perf_counter()
    tenth = rows / 10
    return ended - started, tenth / (marks[2] - marks[1]), tenth / (ended - marks[9])


def main() -> None:
    """Measure and print."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    server = Settings.from_env().database_url or embedded.server.acquire()
    name = f"bench_{secrets.token_hex(4)}"
    url = "postgresql:///?" + "&".join(
        f"{key}={value}" for key, value in {**conninfo_to_dict(server), "dbname": name}.items()
    )
    with psycopg.connect(make_conninfo(server), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        try:
            environment = {**os.environ, "DATABASE_URL": url}
            subprocess.run([f"{BIN}/alembic", "upgrade", "head"], env=environment, check=True)
            with tempfile.TemporaryDirectory() as folder:
                export, copy = Path(folder, "export.json"), Path(folder, "rows.copy")
                write_files(export, copy, rows)
                put_sessions(url, copy)
                bare, slower = bare_copy(url, copy)
                known = timed_import(url, export, rows)
                connection.execute("CHECKPOINT")
                with psycopg.connect(url, autocommit=True) as emptied:
                    emptied.execute("TRUNCATE user_sessions CASCADE")
                unknown = timed_import(url, export, rows)
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    print(f"bare COPY  {rows / bare:10,.0f} rows/s, last tenth {slower:.2f} of the 2nd")
    for name, (seconds, early, late) in {"known": known, "unknown": unknown}.items():
        rate, ratio = rows / seconds, bare / seconds
        print(f"import     {rate:10,.0f} rows/s, {ratio:.2f} of the bare COPY, {name} sessions")
        print(f"           {early:10,.0f} rows/s in the 2nd tenth, {late:,.0f} in the last")


if __name__ == "__main__":
    main()
