"""`push-tokens import`: Rocket.Chat's rows, of every era, merged by what is newest."""

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from base64 import b64encode

import pytest

from app.config import Settings
from app.database.connections import connector
from app.transfer import push_token_import
from app.transfer.mongoexport import Entry
from tests.support.exports import DATES, LATER, MOMENT, auth_hash, ndjson, row
from tests.support.factories import APNS_TOKEN, body, without_ids
from tests.support.killing import killed_halfway

ERAS = {
    "A": lambda date: row("t1", createdAt=date, updatedAt=date),
    "B": lambda date: row("t1", createdAt=date, updatedAt=None, _updatedAt=date, voipToken="v"),
    "C": lambda date: row(
        token=None, tokenValue="t1", tokenType="gcm", createdAt=date, updatedAt=None,
        _updatedAt=date,
    ),
}  # fmt: skip


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("date", DATES, ids=["iso", "normalize_apns_token", "offset", "number"])
def test_takes_the_rows_of_every_era_with_every_form_of_date(run, database, era, date):
    summary, result, _ = run(ndjson(ERAS[era](date)))
    assert (result.exit_code, summary["inserted"]) == (0, 1)
    (stored,) = database.push_tokens()
    assert (stored["device_id"], stored["app_name"], stored["token"]) == ("id-t1", "main", "t1")
    assert (stored["type"], stored["user_id"], stored["enabled"]) == ("gcm", "alice", True)
    assert stored["session_hash"] == hashlib.sha256(b"t1").digest()
    assert stored["created_at"] == stored["updated_at"] == MOMENT


FORMS = {
    "lines": lambda rows: ndjson(*rows),
    "array": lambda rows: b"[" + b",\n".join(json.dumps(r).encode() for r in rows) + b"]\n",
    "array on one line": lambda rows: json.dumps(rows).encode(),
    "pretty array": lambda rows: json.dumps(rows, indent=4).encode(),
    "gzip": lambda rows: gzip.compress(ndjson(*rows)),
    "gzip array": lambda rows: gzip.compress(json.dumps(rows).encode()),
    "byte order mark": lambda rows: b"\xef\xbb\xbf" + ndjson(*rows),
    "no last newline": lambda rows: ndjson(*rows).rstrip(),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stdin", [False, True])
def test_takes_every_form_of_file(run, database, form, stdin):
    summary, result, _ = run(FORMS[form]([row(f"t{n}") for n in range(50)]), stdin=stdin)
    assert (result.exit_code, summary["read"], summary["inserted"]) == (0, 50, 50)
    assert len(database.push_tokens()) == 50


def test_twice_the_same_changes_nothing(run, database):
    data = ndjson(
        row("a"), row("b", authToken=None), row("b", updatedAt=LATER), row("c", _id=None)
    )
    run(data)
    before = (database.push_tokens(), database.rows("SELECT * FROM user_sessions ORDER BY 1"))
    summary, _, _ = run(data)
    assert summary == {"read": 4, "inserted": 0, "updated": 0, "unchanged": 4, "rejected": 0}
    after = (database.push_tokens(), database.rows("SELECT * FROM user_sessions ORDER BY 1"))
    assert after == before


@pytest.mark.parametrize("batch", [1, 2, 5000])
@pytest.mark.parametrize("newest_first", [False, True])
def test_the_newest_of_a_file_wins_wherever_batches_end(
    run, database, monkeypatch, batch, newest_first
):
    monkeypatch.setattr(push_token_import, "BATCH", batch)
    rows = [
        row("a"),
        row("a", _id="newer", userId="bob", authToken=auth_hash("x"), updatedAt=LATER),
    ]
    summary, _, _ = run(ndjson(*(rows[::-1] if newest_first else rows)))
    assert summary["inserted"] == 1
    (stored,) = database.push_tokens()
    assert (stored["device_id"], stored["user_id"], stored["created_at"]) == (
        "newer",
        "bob",
        MOMENT,
    )


def test_what_is_newer_in_the_table_stays(run, client, alice, database):
    client.post("/api/v1/push.token", json=body(), headers=alice.headers)
    before = database.push_tokens()
    summary, _, _ = run(ndjson(row(body()["value"], _id="x", appName="chat.example")))
    assert summary["unchanged"] == 1
    assert database.push_tokens() == before


def test_what_is_older_in_the_table_is_updated(run, database):
    run(ndjson(row("a")))
    summary, _, _ = run(ndjson(row("a", enabled=False, updatedAt=LATER)))
    assert summary["updated"] == 1
    (stored,) = database.push_tokens()
    assert (stored["enabled"], stored["updated_at"].year) == (False, 2019)


def test_of_one_device_the_newest_of_a_file_wins(run, database, monkeypatch):
    rows = [row("T0", _id="X"), row("T1", _id="X", updatedAt=LATER)]
    for batch in (1, 5000):
        for ordered in (rows, rows[::-1]):
            monkeypatch.setattr(push_token_import, "BATCH", batch)
            summary, _, _ = run(ndjson(*ordered))
            (stored,) = database.push_tokens()
            assert (stored["token"], stored["device_id"]) == ("T1", "X")
            assert summary["read"] == 2
            database.forget_everyone()


def test_a_devices_newer_row_takes_the_place_of_the_one_in_the_table(run, database):
    run(ndjson(row("T0", _id="X")))
    summary, _, _ = run(ndjson(row("T1", _id="X", updatedAt=LATER)))
    assert (summary["updated"], summary["inserted"]) == (1, 0)
    assert [stored["token"] for stored in database.push_tokens()] == ["T1"]
    summary, _, _ = run(ndjson(row("T0", _id="X")))
    assert summary["unchanged"] == 1
    assert [stored["token"] for stored in database.push_tokens()] == ["T1"]


def test_two_devices_may_have_swapped_their_values(run, database):
    run(ndjson(row("T0", _id="X"), row("T1", _id="Y")))
    run(ndjson(row("T1", _id="X", updatedAt=LATER), row("T0", _id="Y", updatedAt=LATER)))
    assert {r["token"]: r["device_id"] for r in database.push_tokens()} == {"T0": "Y", "T1": "X"}


def test_an_id_names_a_device_within_its_user_and_app(run, database):
    other = auth_hash("other")
    rows = [
        row("T0", _id="X"),
        row("T1", _id="X", appName="two"),
        row("T2", _id="X", userId="bob", authToken=other),
    ]
    assert run(ndjson(*rows))[0]["inserted"] == 3
    assert {r["device_id"] for r in database.push_tokens()} == {"X"}


def test_a_devices_first_registration_replaces_what_was_imported(run, register, alice, database):
    run(ndjson(row("T0", _id="X")))
    register(alice, value="T1", id="X", appName="main")
    assert [stored["token"] for stored in database.push_tokens()] == ["T1"]


def test_unknown_sessions_hold_rows_and_let_nobody_in(run, database):
    run(ndjson(row("a"), row("b", authToken=None), row("c", authToken=None)))
    sessions = database.rows("SELECT * FROM user_sessions")
    assert len(sessions) == 2
    assert {(s["user_id"], s["can_sign_in"], s["expires_at"]) for s in sessions} == {
        ("alice", False, None)
    }


def test_known_sessions_take_their_rows_along_at_logout(run, client, alice, database):
    data = ndjson(row("a", authToken=b64encode(alice.token_hash).decode()))
    assert run(data, "--known-sessions-only")[0]["inserted"] == 1
    (session,) = database.rows("SELECT * FROM user_sessions")
    assert session["can_sign_in"]
    client.post("/api/v1/logout", headers=alice.headers)
    assert not database.push_tokens()


def test_known_sessions_only_rejects_the_others(run, database):
    summary, result, rejects = run(ndjson(row("a")), "--known-sessions-only")
    assert (summary["rejected"], result.exit_code) == (1, 1)
    assert "every row of it was rejected" in result.stderr
    assert rejects[0]["reason"] == "authToken: no known session"
    assert not database.rows("SELECT * FROM user_sessions")


def test_known_sessions_only_rejects_an_expired_one(run, database):
    caller = database.sign_in("alice", expires="-1 second")
    data = ndjson(row("a", authToken=b64encode(caller.token_hash).decode()))
    assert run(data, "--known-sessions-only")[0]["rejected"] == 1
    assert run(data)[0]["inserted"] == 1


def test_another_users_session_is_refused(run, bob, database):
    foreign = b64encode(bob.token_hash).decode()
    shared = auth_hash("shared")
    rows = [row("a", authToken=foreign), row("b", authToken=shared)]
    summary, _, rejects = run(ndjson(*rows, row("c", authToken=shared, userId="carol")))
    assert (summary["inserted"], [r["line"] for r in rejects]) == (1, [1, 3])
    assert {r["reason"] for r in rejects} == {"authToken: the session of another user"}
    assert [r["token"] for r in database.push_tokens()] == ["b"]


BAD = [
    (b"nonsense\n", "not JSON"),
    (b"[1]\n", "not a JSON object"),
    (b'{"a":"\xff"}\n', "not JSON"),
    (row(userId=None), "userId"),
    (row(userId=""), "userId"),
    (row(userId="u" * 256), "userId"),
    (row(_id=1), "_id"),
    (row(_id="i" * 65), "_id"),
    (row(appName=None), "appName"),
    (row(appName="ü" * 128), "appName"),
    (row(appName="a\0b"), "appName"),
    (row(token=None), "token"),
    (row(token={}), "token"),
    (row(token="t"), "token"),
    (row(token={"fcm": "t"}), "token"),
    (row(token={"gcm": 1}), "token"),
    (row(token={"gcm": ""}), "token"),
    (row(token={"gcm": "t" * 2049}), "token"),
    (row(token=None, tokenValue="t", tokenType="web"), "token"),
    (row(token=None, tokenValue="t", tokenType=[]), "token"),
    (row(authToken="short"), "authToken"),
    (row(authToken=5), "authToken"),
    (row(enabled="yes"), "enabled"),
    (row(createdAt=None, updatedAt=None), "updatedAt"),
    (row(updatedAt="yesterday"), "updatedAt"),
    (row(updatedAt={"$date": "2018-09-11T18:22:55"}), "updatedAt"),
    (row(updatedAt={"$date": {"$numberLong": "x"}}), "updatedAt"),
    (row(updatedAt={"$date": {"$numberLong": []}}), "updatedAt"),
    (row(updatedAt={"$date": 1e300}), "updatedAt"),
    (row(updatedAt={"$date": {"$numberLong": "9" * 30}}), "updatedAt"),
    (row(createdAt={"$date": True}), "createdAt"),
    (row(updatedAt={"$date": "2999-01-01T00:00:00Z"}), "updatedAt: far in the future"),
    (row(createdAt={"$date": 10**14}), "createdAt: far in the future"),
    (b'{"updatedAt": NaN}\n', "not JSON"),
    (b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"\n", "not JSON"),
    (b'{"_id":"' + b"x" * (16 << 20) + b'"}\n', "longer than any document"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD)
def test_a_bad_row_is_reported_with_its_line_and_stops_nothing(run, database, bad, reason):
    summary, result, rejects = run(ndjson(row("a"), b"\n", bad, row("z")))
    assert (result.exit_code, summary["inserted"], summary["rejected"]) == (0, 2, 1)
    assert rejects[0]["line"] == 3
    assert rejects[0]["reason"].startswith(reason)


def test_a_bad_document_in_an_array_stops_nothing(run):
    rows = [json.dumps(row("a")), '{"_id": nonsense}', json.dumps(row("b"))]
    summary, _, rejects = run(("[" + ",\n".join(rows) + "]").encode())
    assert (summary["inserted"], [r["line"] for r in rejects]) == (2, [2])


@pytest.mark.parametrize("bad", ["NaN", "Infinity", "9" * 400])
def test_a_date_that_is_no_number_is_named_in_an_array_too(run, bad):
    rows = [json.dumps(row("a")), json.dumps(row("b", updatedAt=5)).replace("5,", f"{bad},")]
    summary, _, rejects = run(("[" + ",\n".join(rows) + "]").encode())
    assert (summary["inserted"], rejects[0]["line"]) == (1, 2)
    assert rejects[0]["reason"].startswith("updatedAt: ")


def test_the_last_of_two_equal_keys_counts(run, database):
    run(ndjson(row("a")).replace(b'"userId": "alice"', b'"userId": "bob", "userId": "carol"'))
    assert database.push_tokens()[0]["user_id"] == "carol"


def test_apns_hex_is_one_device_in_either_case(run, database):
    upper, lower = {"apn": APNS_TOKEN.upper()}, {"apn": APNS_TOKEN}
    run(ndjson(row("a", token=upper), row("b", token=lower, updatedAt=LATER)))
    assert [r["token"] for r in database.push_tokens()] == [APNS_TOKEN]


def test_keeps_text_that_copy_would_read_differently(run, database):
    odd = "a\\b\tc\nd\re\\N"
    run(ndjson(row(odd, _id=odd, appName=odd, userId=odd), row("\\N", appName="\\.")))
    stored = {r["token"]: r for r in database.push_tokens()}
    assert {stored[odd][name] for name in ("device_id", "app_name", "user_id", "token")} == {odd}
    assert stored["\\N"]["app_name"] == "\\."


TRUNCATED = {
    "lines": lambda rows: ndjson(*rows)[:-20],
    "array": lambda rows: json.dumps(rows).encode()[:-20],
    "array without end": lambda rows: json.dumps(rows).encode()[:-1],
    "gzip": lambda rows: gzip.compress(ndjson(*rows))[:-20],
}


@pytest.mark.parametrize("form", TRUNCATED)
def test_a_file_that_ends_in_the_middle_is_an_error_with_what_was_done(run, form):
    _, result, _ = run(TRUNCATED[form]([row(f"t{n}") for n in range(50)]))
    assert result.exit_code == 1
    assert "line" in result.stderr
    assert "'inserted': " in result.stderr


@pytest.mark.parametrize("data", [b"once upon a time\n", b'"x"\n', b"5\n5\n"])
def test_a_file_without_any_document_is_an_error(run, data):
    _, result, _ = run(data)
    assert result.exit_code == 1
    assert "no line of it is a JSON object" in result.stderr


@pytest.mark.parametrize("more", [b"[]", b"{}", b"x"])
def test_what_follows_an_array_is_not_passed_over(run, more):
    summary, result, _ = run(json.dumps([row("a")]).encode() + b"\n" * (2 << 20) + more)
    assert (result.exit_code, summary["inserted"]) == (1, 1)
    assert "something follows the end of the array" in result.stderr


def test_a_file_that_has_nothing_in_it_is_no_error(run):
    for nothing in (b"", b"\n \n", b"[]", gzip.compress(b"")):
        summary, result, _ = run(nothing)
        assert (result.exit_code, summary["read"]) == (0, 0)
        assert "export.json: there is nothing in it.\n" in result.stderr


def test_a_folder_is_no_file(runner, tmp_path):
    result = runner.invoke(args=["push-tokens", "import", str(tmp_path)])
    assert result.exit_code == 2
    assert "is a directory" in result.stderr


def test_rejects_never_replace_the_file_itself(runner, tmp_path):
    path = tmp_path / "export.json"
    path.write_bytes(ndjson(row("a")))
    other = tmp_path / "link"
    other.symlink_to(path)
    result = runner.invoke(args=["push-tokens", "import", str(path), "--rejects", str(other)])
    assert result.exit_code == 2
    assert path.read_bytes() == ndjson(row("a"))


def test_rejects_leave_a_device_as_it_is(runner):
    main, device = os.openpty()
    before = os.fstat(device).st_mode
    arguments = ["push-tokens", "import", "-", "--rejects", os.ttyname(device)]
    assert runner.invoke(args=arguments, input=b"{}\n").exit_code == 1
    assert os.fstat(device).st_mode == before
    assert b"token: " in os.read(main, 1000)
    os.close(main)
    os.close(device)


def test_a_full_disk_is_one_line(runner):
    result = runner.invoke(
        args=["push-tokens", "import", "-", "--rejects", "/dev/full"], input=b"5"
    )
    assert result.exit_code == 1
    assert "Error: [Errno 28] No space left on device" in result.stderr


def test_a_file_that_is_not_there_is_an_error(runner):
    result = runner.invoke(args=["push-tokens", "import", "nowhere.json"])
    assert result.exit_code == 1
    assert "nowhere.json" in result.stderr


def test_a_slow_server_gets_smaller_batches(app, database_url, monkeypatch, is_spread):
    """Whoever waits for a row of a batch must not wait for long."""
    with connector(Settings(database_url=database_url), batch=True)(autocommit=True) as connection:
        importing = push_token_import.Importer(
            connection, lambda entry, reason: None, is_distributed=is_spread
        )
        merge, sizes = importing._merge, []

        def slowly(staged, unnamed):
            sizes.append(staged.count("\n"))
            time.sleep(sizes[-1] / 2000)  # seconds
            return merge(staged, unnamed)

        monkeypatch.setattr(importing, "_merge", slowly)
        rows = (Entry(n, row(f"t{n}"), b"") for n in range(6000))
        importing.run(rows, lambda read: None)
    assert sum(sizes) == 6000
    assert sizes[0] == 500
    assert max(sizes[3:]) <= 500


@pytest.mark.parametrize(
    "held", [push_token_import.HELD, 60.0], ids=["as shipped", "full batches"]
)
def test_registrations_meanwhile_never_fail_and_never_lose(
    run, new_app, database_url, alice, database, monkeypatch, held
):
    # How long a batch holds its locks is another test's; here the machine may be slow.
    patience = {"database_lock_timeout": 60, "database_statement_timeout": 60}
    app = new_app(database_url=database_url, database_pool_size=5, **patience)
    monkeypatch.setattr(push_token_import, "HELD", held)
    values = [f"t{n}" for n in range(13_000)]  # a batch is full by then
    codes: list[int] = []
    done = threading.Event()

    def register(offset: int) -> None:
        client = app.test_client()
        for value in values[offset::4]:
            if done.is_set():
                return
            answer = client.post(
                "/api/v1/push.token",
                json={"type": "gcm", "value": value, "appName": "main"},
                headers=alice.headers,
            )
            codes.append(answer.status_code)

    threads = [threading.Thread(target=register, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    summary, _, _ = run(ndjson(*(row(v, userId="old") for v in values[::-1])))
    done.set()
    for thread in threads:
        thread.join()
    assert set(codes) == {200}
    assert summary["rejected"] == 0
    assert len(database.push_tokens()) == len(values)
    mine = database.rows("SELECT count(*) AS n FROM push_tokens WHERE user_id = 'alice'")
    assert mine[0]["n"] == len(codes)


def test_an_interrupted_import_says_what_it_has_done(database_url, database):
    # What ignores the signal, like a shell's background jobs, would have its children do so, too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", "flask", "push-tokens", "import", "-"],
        env={**os.environ, "DATABASE_URL": database_url},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    signal.signal(signal.SIGINT, before)
    with process:
        # More than is read at a time.
        process.stdin.write(ndjson(*(row(f"t{n}") for n in range(20_000))))
        process.stdin.flush()
        while not database.push_tokens():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read().decode()
        assert process.wait(60) == 1
        assert process.stdout.read() == b""
    assert "Stopped; committed so far: {'read': " in said
    assert "Aborted!" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_killed_in_the_middle_and_run_again_gives_the_same_table(
    run, database, database_url, tmp_path
):
    data = ndjson(*(row(f"t{n}") for n in range(30_000)))
    path = tmp_path / "big.json"
    path.write_bytes(data)
    stored = killed_halfway(
        database_url,
        database.forget_everyone,
        "push_tokens",
        *("import", str(path)),
        end=30_000,
    )
    summary, _, _ = run(data)
    assert summary["inserted"] == 30_000 - stored
    killed = database.push_tokens()
    database.forget_everyone()
    run(data)
    assert without_ids(database.push_tokens()) == without_ids(killed)


# What becomes another program by exec keeps the peak that it had before: a process as large as
# this one must not be its parent.
MEASURE = """
import os, sys
files = [(os.POSIX_SPAWN_OPEN, n, os.devnull, os.O_WRONLY, 0) for n in (1, 2)]
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=files)
_, status, used = os.wait4(pid, 0)
print(used.ru_maxrss)
sys.exit(status != 0)
"""
# Batches are full on a busy machine, too, or the longer file would seem to need more.
FLASK = """
from app.transfer import push_token_import; push_token_import.HELD = 60.0
from flask.cli import main; main()
"""


def peak_memory(url: str, *command: str) -> int:
    """Run a command of flask push-tokens; return the most memory that it held, in KiB."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, sys.executable, "-c", FLASK, "push-tokens", *command],
        env={**os.environ, "DATABASE_URL": url},
        stdout=subprocess.PIPE,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["lines", "array on one line"])
def test_memory_is_flat(database_url, database, tmp_path, form):
    peaks: list[list[int]] = []
    for rows in (24_000, 96_000):  # the shorter fills batches too
        path = tmp_path / "export.json"
        path.write_bytes(FORMS[form]([row(f"{n:0160}", _id=f"{n}") for n in range(rows)]))
        peaks.append([])
        for command in (["import", str(path)], ["export"]):
            peaks[-1].append(peak_memory(database_url, *command))
        assert len(database.push_tokens()) == rows
    for short, long in zip(*peaks, strict=True):
        assert long < short + 10 * 1024  # KiB; the longer file is 30 MB longer
