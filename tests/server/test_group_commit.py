"""Group commit: what each sentence at the head of app/server/group_commit.py promises.

Groups form at will: the statements wait at a gate (tests/support/committing.py).
"""

import asyncio
import itertools
import threading
import time
from contextlib import contextmanager
from functools import partial

import psycopg
import pytest

from app.database.failures import UnavailableError
from app.registry.registration import Registration
from app.server import group_commit
from tests.support.committing import Gates, asked, committing, wait_for
from tests.support.factories import Caller
from tests.support.patience import keeps, seconds


@pytest.fixture
def gates(database_url):
    return Gates(database_url)


@pytest.fixture
def commit(gates, monkeypatch):
    with committing(gates, monkeypatch) as commit:
        yield commit


def test_a_lone_registration_is_one_statement_and_waits_for_nobody(commit, gates, alice):
    row = commit.register(asked(alice, "t"))
    assert row["user_id"] == "alice"
    assert gates.sizes == [1]


def test_all_who_wait_are_written_by_one_statement(commit, gates, alice, database):
    futures = commit.group(asked(alice, "first"), [asked(alice, f"t{n}") for n in range(40)])
    rows = [future.result(60) for future in futures]
    assert gates.sizes == [40]
    assert [row["token"] for row in rows] == [f"t{n}" for n in range(40)]
    stored = {row["token"]: row["device_id"] for row in database.push_tokens()}
    assert {row["token"]: row["device_id"] for row in rows}.items() <= stored.items()


def test_a_large_crowd_is_written_in_groups_of_a_bounded_size(commit, gates, alice):
    futures = commit.group(asked(alice, "first"), [asked(alice, f"t{n}") for n in range(130)])
    assert all(future.result(60) for future in futures)
    assert gates.sizes == [100, 30]


def test_of_the_same_push_token_the_last_wins_and_each_is_answered(commit, alice, bob, database):
    members = [
        asked(alice, "t"),
        asked(bob, "t", "apn"),
        asked(alice, "t", "apn"),
        asked(bob, "t"),
    ]
    rows = [future.result(60) for future in commit.group(asked(alice, "first"), members)]
    assert [(row["user_id"], row["type"]) for row in rows] == [
        *(("alice", "gcm"), ("bob", "apn"), ("alice", "apn"), ("bob", "gcm"))
    ]
    (stored,) = [row for row in database.push_tokens() if row["token"] == "t"]
    assert {row["device_id"] for row in rows} == {stored["device_id"]}
    assert {row["created_at"] for row in rows} == {stored["created_at"]}
    assert (stored["user_id"], stored["type"]) == ("bob", "gcm")
    assert stored["session_hash"] == bob.token_hash


def test_of_the_same_device_the_last_wins_and_each_is_answered(commit, alice, database):
    members = [asked(alice, f"t{n}", device_id="phone") for n in range(4)]
    rows = [future.result(60) for future in commit.group(asked(alice, "first"), members)]
    assert [row["token"] for row in rows] == ["t0", "t1", "t2", "t3"]
    assert {row["token"] for row in database.push_tokens()} == {"first", "t3"}


@contextmanager
def holding(gates, token, passes=0):
    """Hold up statements for this push token alone, but for the first ones."""
    passed, free, seen = gates.pass_through, threading.Event(), itertools.count()

    async def hold(parameters: dict[str, str]) -> None:
        await passed(parameters)
        if gates.tokens(parameters) == [token] and next(seen) >= passes:
            while not free.is_set():
                await asyncio.sleep(0.001)

    gates.pass_through = hold
    try:
        yield
    finally:
        free.set()


def test_a_crowd_that_wants_one_push_token_delays_no_other(commit, gates, alice, bob):
    """It waits for itself: the next group is written while the crowd's are held up."""
    with holding(gates, "t"):
        members = [*(asked(alice, "t") for _ in range(50)), asked(bob, "u")]
        crowd = commit.group(asked(alice, "first"), members)
        for number in range(5):
            assert commit.register(asked(bob, f"b{number}"))["user_id"] == "bob"
        assert sum(future.done() for future in crowd) == 2  # the first of the crowd, and bob's
    assert all(future.result(60) for future in crowd)


def test_what_moves_to_another_user_delays_no_other(commit, gates, alice, bob, is_spread):
    """Nor what wants it meanwhile: all of it is written beside the groups, in order.

    Where tables are spread a group moves it, in the one INSERT that it writes all by.
    """
    commit.register(asked(alice, "t"))
    if is_spread:
        moving = commit.group(asked(alice, "first"), [asked(bob, "t"), asked(alice, "u")])
        assert [future.result(10)["user_id"] for future in moving] == ["bob", "alice"]
        return
    with holding(gates, "t", passes=1):  # the group, which cannot move it
        moving = [commit.submit(asked(bob, "t"))]
        wait_for(lambda: commit.commit._in_second)
        moving += [commit.submit(asked(alice, "t")), commit.submit(asked(bob, "t"))]
        for number in range(5):
            assert commit.register(asked(alice, f"a{number}"))["user_id"] == "alice"
        assert not any(future.done() for future in moving)
    assert [future.result(60)["user_id"] for future in moving] == ["bob", "alice", "bob"]


def test_who_is_not_signed_in_gets_none_and_spoils_nothing(commit, alice, database):
    stranger = Caller("alice", "wrong")
    expired = database.sign_in("bob", expires="-1 s")
    members = [asked(stranger, "t"), asked(alice, "t"), asked(expired, "t"), asked(stranger, "x")]
    rows = [future.result(60) for future in commit.group(asked(alice, "first"), members)]
    assert [row and row["user_id"] for row in rows] == [None, "alice", None, None]
    assert {row["token"] for row in database.push_tokens()} == {"first", "t"}


def test_anothers_user_id_with_a_valid_session_is_no_way_in(commit, alice, bob, database):
    forged = Registration(alice.token_hash, "bob", "app", "t", "gcm")
    rows = [f.result(60) for f in commit.group(asked(bob, "first"), [forged, asked(alice, "u")])]
    assert rows[0] is None
    assert {row["token"] for row in database.push_tokens()} == {"first", "u"}


def test_a_confirmation_is_as_old_as_each_member_allows(commit, database):
    database.execute(
        "INSERT INTO user_sessions (token_hash, user_id, verified_at)"
        " VALUES (sha256('x'), 'carol', now() - interval '1 minute')"
    )
    carol = Caller("carol", "x")
    members = [asked(carol, "a", max_age=50), asked(carol, "b", max_age=70), asked(carol, "c")]
    rows = [f.result(60) for f in commit.group(asked(carol, "first"), members)]
    assert [row is not None for row in rows] == [False, True, True]


@pytest.mark.slow
class TestLocks:
    @pytest.fixture
    def holder(self, database_url):
        with psycopg.connect(database_url) as holder:
            yield holder

    @pytest.fixture
    def patient(self, database_url, monkeypatch):
        """One whose members wait for a lock as long as somebody holds it."""
        gates = Gates(database_url, database_statement_timeout=120)
        limits = {"deadline": 120, "lock_timeout": 120, "statement_timeout": 120}
        with committing(gates, monkeypatch, **limits) as commit:
            yield commit

    @pytest.mark.alone
    @pytest.mark.parametrize("table", ["user_sessions", "push_tokens"])
    def test_a_member_that_meets_a_lock_waits_alone(self, patient, alice, bob, holder, table):
        patient.register(asked(bob, "held"))
        members = [asked(alice, "a"), asked(bob, "held"), asked(alice, "b")]

        def write_beside_a_lock() -> float:
            holder.execute(f"SELECT 1 FROM {table} WHERE user_id = 'bob' FOR UPDATE")
            start = time.monotonic()
            one, held, two = patient.group(asked(alice, "first"), members)
            assert one.result(60)
            assert two.result(60)
            took = time.monotonic() - start
            assert not held.done()
            holder.commit()
            assert held.result(60)
            wait_for(lambda: not patient.commit._in_alone)
            return took

        keeps(0.4, write_beside_a_lock)

    def test_and_fails_alone_where_the_lock_stays(self, gates, monkeypatch, alice, bob, holder):
        with committing(gates, monkeypatch, lock_timeout=0.5) as commit:
            commit.register(asked(bob, "held"))
            holder.execute("SELECT 1 FROM push_tokens WHERE token = 'held' FOR UPDATE")
            with pytest.raises(UnavailableError):
                commit.register(asked(bob, "held"))
            assert commit.register(asked(alice, "a"))

    @pytest.mark.alone
    def test_those_that_want_it_meanwhile_delay_no_group(self, patient, alice, bob, holder):
        """Only the first group waits; from then on it is known what is held."""
        patient.register(asked(bob, "held"))
        holder.execute("SELECT 1 FROM user_sessions WHERE user_id = 'bob' FOR UPDATE")
        waiting = [patient.submit(asked(bob, "held"))]
        wait_for(lambda: patient.commit._in_alone)

        def slowest_among_bobs() -> float:
            waiting.extend(patient.submit(asked(bob, f"of bob {n}")) for n in range(20))
            others = [asked(alice, f"t{n}") for n in range(20)]
            return max(seconds(partial(patient.register, other)) for other in others)

        keeps(group_commit.LOCK_TIMEOUT, slowest_among_bobs)
        holder.commit()
        assert all(future.result(60) for future in waiting)
        wait_for(lambda: not patient.commit._in_alone)


def test_a_member_that_the_database_refuses_fails_alone(commit, alice, database):
    database.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$"
        " BEGIN IF NEW.token = 'bad' THEN RAISE 'no' USING ERRCODE = '23514'; END IF;"
        " RETURN NEW; END $$"
    )
    database.execute(
        "CREATE TRIGGER refuse BEFORE INSERT ON push_tokens FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    try:
        members = [asked(alice, "a"), asked(alice, "bad"), asked(alice, "b")]
        one, bad, two = commit.group(asked(alice, "first"), members)
        assert one.result(60)
        assert two.result(60)
        with pytest.raises(psycopg.errors.CheckViolation):
            bad.result(60)
    finally:
        database.execute("DROP FUNCTION refuse() CASCADE")


class TestConnections:
    def test_a_lost_connection_is_replaced_once(self, commit, gates, alice, database):
        commit.register(asked(alice, "a"))
        pid = gates.connections[0].info.backend_pid
        database.execute("SELECT pg_terminate_backend(%s)", pid)
        assert commit.register(asked(alice, "b"))
        assert len(gates.connections) == 2

    def test_and_only_once(self, commit, gates, alice, database, monkeypatch):
        def lose(*arguments):
            pid = gates.connections[-1].info.backend_pid
            database.execute("SELECT pg_terminate_backend(%s)", pid)

        monkeypatch.setattr(gates, "pass_through", as_coroutine(lose))
        with pytest.raises(UnavailableError):
            commit.register(asked(alice, "a"))
        assert len(gates.connections) == 2
        monkeypatch.undo()

    def test_a_group_is_not_tried_one_by_one_while_the_database_is_away(
        self, commit, gates, alice
    ):
        gates.open.clear()
        first = commit.submit(asked(alice, "first"))
        assert gates.reached.acquire(timeout=60)
        members = [commit.submit(asked(alice, f"t{n}")) for n in range(3)]
        wait_for(lambda: commit.waiting == 3)
        gates.raises = [psycopg.errors.DiskFull(), psycopg.errors.DiskFull()]
        gates.open.set()
        for future in (first, *members):
            assert isinstance(future.exception(60), UnavailableError)
        assert gates.sizes == [1, 3]


def as_coroutine(function):
    async def run(*arguments):
        return function(*arguments)

    return run


RACES = [psycopg.errors.DeadlockDetected, psycopg.errors.UniqueViolation]


class TestDeadlines:
    @pytest.mark.parametrize("error", RACES)
    def test_a_lost_race_goes_again_until_it_is_won(self, commit, gates, alice, error):
        gates.raises = [error() for _ in range(5)]
        assert commit.register(asked(alice, "t"))
        assert gates.sizes == [1] * 6

    @pytest.mark.parametrize("error", RACES)
    def test_and_no_longer_than_the_deadline(self, gates, alice, monkeypatch, error):
        gates.raises = [error() for _ in range(10_000)]
        with committing(gates, monkeypatch, deadline=0.3) as commit:

            def give_up() -> None:
                with pytest.raises(UnavailableError):
                    commit.register(asked(alice, "t"))

            took = keeps(2, lambda: seconds(give_up))
            assert took > 0.29  # the loop's clock counts milliseconds

    def test_one_that_meets_a_second_lock_waits_too(self, commit, gates, alice, monkeypatch):
        """The first one is gone when it is looked for, and then there is another."""

        async def nothing_is_held(asked):
            return set()

        monkeypatch.setattr(commit.commit._group_writer, "find_held", nothing_is_held)
        gates.raises = [psycopg.errors.LockNotAvailable() for _ in range(2)]
        assert commit.register(asked(alice, "t"))

    def test_who_waits_too_long_gives_up_and_harms_nobody(
        self, gates, alice, database, monkeypatch
    ):
        with committing(gates, monkeypatch, deadline=0.3) as commit:
            gates.open.clear()
            first = commit.submit(asked(alice, "first"))
            assert gates.reached.acquire(timeout=60)
            late = commit.submit(asked(alice, "late"))
            with pytest.raises(UnavailableError):
                late.result(60)
            assert commit.waiting == 0
            gates.open.set()
            assert first.result(60)
            assert commit.register(asked(alice, "next"))
            assert {row["token"] for row in database.push_tokens()} == {"first", "next"}

    def test_no_more_than_so_many_wait(self, commit, gates, alice, monkeypatch):
        monkeypatch.setattr(group_commit, "MAX_WAITING", 3)
        gates.open.clear()
        futures = [commit.submit(asked(alice, "first"))]
        assert gates.reached.acquire(timeout=60)
        futures += [commit.submit(asked(alice, f"t{n}")) for n in range(3)]
        wait_for(lambda: commit.waiting == 3)
        with pytest.raises(UnavailableError):
            commit.register(asked(alice, "one too many"))
        gates.open.set()
        assert all(future.result(60) for future in futures)


def test_all_who_wait_are_told_when_the_worker_ends(gates, alice, monkeypatch):
    gates.open.clear()
    with committing(gates, monkeypatch) as commit:
        futures = [commit.submit(asked(alice, f"t{n}")) for n in range(5)]
        assert gates.reached.acquire(timeout=60)
    for future in futures:
        assert isinstance(future.exception(60), UnavailableError)


def test_nothing_is_acknowledged_before_its_commit(commit, gates, alice, database_url):
    """At the moment of each answer another connection sees the row."""
    with psycopg.connect(database_url, autocommit=True) as other:
        for number in range(20):
            row = commit.register(asked(alice, f"t{number}"))
            query = "SELECT 1 FROM push_tokens WHERE token = %s"
            assert other.execute(query, (row["token"],)).fetchone()
    assert gates.connections[0].autocommit


@pytest.mark.parametrize("has_ids", [False, True])
def test_a_crowd_that_crosses_values_and_devices_fails_nobody(
    database_url, database, monkeypatch, has_ids
):
    """Two workers' worth of groups; each registration is answered, one row a value."""
    callers = [database.sign_in(f"u{n}") for n in range(3)]
    gates = [Gates(database_url), Gates(database_url)]
    with committing(gates[0], monkeypatch) as one, committing(gates[1], monkeypatch) as two:

        def crowd(commit, offset, outcomes):
            for number in range(150):
                place = number * 7 + offset
                device = {"device_id": f"d{place % 4}"} if has_ids else {}
                member = asked(callers[place % 3], f"t{place % 5}", **device)
                outcomes.append(commit.submit(member))

        outcomes: list = []
        threads = [
            threading.Thread(target=crowd, args=(commit, offset, outcomes))
            for offset, commit in enumerate((one, two, one, two))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(future.result(60) for future in outcomes)
    values = [row["token"] for row in database.push_tokens()]
    assert len(values) == len(set(values)) <= 5


@pytest.mark.slow
@pytest.mark.alone
def test_a_logout_of_43_200_registrations_delays_no_other(commit, alice, database):
    """Others are written within a quarter of a second, whatever the session's own wait for."""
    commit.register(asked(alice, "warm"))

    def log_out(bob: Caller) -> None:
        with psycopg.connect(commit.gates.connections[0].info.dsn, autocommit=False) as other:
            other.execute(
                "SELECT 1 FROM user_sessions WHERE token_hash = %s FOR UPDATE", [bob.token_hash]
            )
            other.execute("DELETE FROM push_tokens WHERE session_hash = %s", [bob.token_hash])
            other.execute("DELETE FROM user_sessions WHERE token_hash = %s", [bob.token_hash])
            time.sleep(0.5)

    def slowest_beside_it() -> float:
        bob = database.sign_in("bob")
        database.execute(
            "INSERT INTO push_tokens (id, device_id, app_name, token, type, user_id, session_hash)"
            " SELECT 'b' || n, 'b' || n, 'app', 'b' || n, 'gcm', 'bob', %s"
            " FROM generate_series(1, 43200) n",
            bob.token_hash,
        )
        thread = threading.Thread(target=log_out, args=[bob])
        thread.start()
        figures = []
        while thread.is_alive():
            commit.submit(asked(bob, "b1"))
            another = asked(alice, f"t{len(figures)}")
            figures.append(seconds(partial(commit.register, another)))
        return max(figures)

    keeps(0.25, slowest_beside_it)
