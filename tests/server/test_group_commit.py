"""Group commit: what each sentence at the head of app/registrar.py promises, on PostgreSQL.

Groups form at will: the registrar's connection waits at a gate before each statement.
"""

import json
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace

import psycopg
import pytest

from app.config import Settings
from app.database.connections import Connection, connector
from app.database.failures import UnavailableError
from app.registry.registration import Registration
from app.server import group_commit as registrar_module
from app.server.group_commit import Registrar
from tests.support.factories import Caller, body

URL = "/api/v1/push.token"


class Gate:
    """A connection whose statements wait until the gate is open, and are counted."""

    def __init__(self, connection, gate: "Gates"):
        self._connection = connection
        self._gate = gate

    def __getattr__(self, name: str):
        return getattr(self._connection, name)

    def fetch(self, statement, parameters):
        self._gate.sizes.append(len(json.loads(parameters["asked"])))
        self._gate.reached.release()
        assert self._gate.open.wait(20)
        if self._gate.raises:
            raise self._gate.raises.pop()
        return self._connection.fetch(statement, parameters)


class Gates:
    """What the test sees and steers of a registrar's connections."""

    def __init__(self, database_url: str):
        self._connect = connector(Settings(database_url=database_url, database_lock_timeout=0.3))
        self.open = threading.Event()
        self.open.set()
        self.reached = threading.Semaphore(0)
        self.sizes: list[int] = []
        self.raises: list[BaseException] = []
        self.connections: list[psycopg.Connection] = []

    def connect(self, **kwargs):
        self.connections.append(self._connect(**kwargs))
        return Gate(self.connections[-1], self)


@pytest.fixture
def gates(database_url):
    return Gates(database_url)


@pytest.fixture
def registrar(gates):
    registrar = Registrar(gates.connect, deadline=10)
    yield registrar
    registrar.close()


@pytest.fixture
def pool():
    with ThreadPoolExecutor(150) as pool:
        yield pool


def asked(caller: Caller, token: str, type_: str = "gcm") -> Registration:
    return Registration(caller.token_hash, caller.user_id, "app", token, type_)


@pytest.fixture
def group(registrar, gates, pool):
    """A function that has registrations written as one group, in order; returns futures.

    A first registration, of `leader`, is held at the gate while the group gathers.
    """

    def group(leader: Registration, members: list[Registration]) -> list[Future]:
        gates.open.clear()
        first = pool.submit(registrar.register, leader)
        assert gates.reached.acquire(timeout=5)
        futures = []
        for place, member in enumerate(members, start=1):
            futures.append(pool.submit(registrar.register, member))
            wait_for(lambda place=place: len(registrar._waiting) == place)
        gates.sizes.clear()
        gates.open.set()
        first.result(10)
        return futures

    return group


def wait_for(condition) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_lone_registration_is_one_statement_and_waits_for_nobody(registrar, gates, alice):
    row = registrar.register(asked(alice, "t"))
    assert row["user_id"] == "alice"
    assert gates.sizes == [1]


def test_all_who_wait_are_written_by_one_statement(group, gates, alice, database):
    futures = group(asked(alice, "first"), [asked(alice, f"t{n}") for n in range(40)])
    rows = [future.result(10) for future in futures]
    assert gates.sizes == [40]
    assert [row["token"] for row in rows] == [f"t{n}" for n in range(40)]
    stored = {row["token"]: row["device_id"] for row in database.push_tokens()}
    assert {row["token"]: row["device_id"] for row in rows}.items() <= stored.items()


def test_a_large_crowd_is_written_in_groups_of_a_bounded_size(group, gates, alice):
    futures = group(asked(alice, "first"), [asked(alice, f"t{n}") for n in range(130)])
    assert all(future.result(10) for future in futures)
    assert gates.sizes == [100, 30]


def test_of_the_same_push_token_the_last_one_wins_and_each_gets_its_own_answer(
    group, alice, bob, database
):
    members = [
        asked(alice, "t"),
        asked(bob, "t", "apn"),
        asked(alice, "t", "apn"),
        asked(bob, "t"),
    ]
    rows = [future.result(10) for future in group(asked(alice, "first"), members)]
    assert [(row["user_id"], row["type"]) for row in rows] == [
        *(("alice", "gcm"), ("bob", "apn"), ("alice", "apn"), ("bob", "gcm"))
    ]
    (stored,) = [row for row in database.push_tokens() if row["token"] == "t"]
    assert {row["device_id"] for row in rows} == {stored["device_id"]}
    assert {row["created_at"] for row in rows} == {stored["created_at"]}
    assert (stored["user_id"], stored["type"]) == ("bob", "gcm")
    assert stored["session_hash"] == bob.token_hash


def test_who_is_not_signed_in_gets_none_and_spoils_nothing(group, alice, database):
    stranger = Caller("alice", "wrong")
    expired = database.sign_in("bob", expires="-1 s")
    members = [asked(stranger, "t"), asked(alice, "t"), asked(expired, "t"), asked(stranger, "x")]
    rows = [future.result(10) for future in group(asked(alice, "first"), members)]
    assert [row and row["user_id"] for row in rows] == [None, "alice", None, None]
    assert {row["token"] for row in database.push_tokens()} == {"first", "t"}


def test_somebody_elses_user_id_with_a_live_session_in_the_group_is_no_way_in(
    group, alice, bob, database
):
    forged = Registration(alice.token_hash, "bob", "app", "t", "gcm")
    rows = [f.result(10) for f in group(asked(bob, "first"), [forged, asked(alice, "u")])]
    assert rows[0] is None
    assert {row["token"] for row in database.push_tokens()} == {"first", "u"}


def test_a_member_whose_row_is_locked_fails_alone(group, alice, database, database_url):
    database.execute(
        "INSERT INTO push_tokens"
        " (id, device_id, app_name, token, type, user_id, session_hash)"
        " VALUES ('x', 'x', 'app', 'held', 'gcm', 'alice', %s)",
        alice.token_hash,
    )
    with psycopg.connect(database_url) as holder:
        holder.execute("SELECT 1 FROM push_tokens WHERE token = 'held' FOR UPDATE")
        members = [asked(alice, "a"), asked(alice, "held"), asked(alice, "b")]
        one, held, two = group(asked(alice, "first"), members)
        assert one.result(10)
        assert two.result(10)
        with pytest.raises(UnavailableError):
            held.result(10)


def test_a_member_that_the_database_refuses_fails_alone(group, alice, database):
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
        one, bad, two = group(asked(alice, "first"), members)
        assert one.result(10)
        assert two.result(10)
        with pytest.raises(psycopg.errors.CheckViolation):
            bad.result(10)
    finally:
        database.execute("DROP FUNCTION refuse() CASCADE")


def test_a_lost_connection_is_replaced_once(registrar, gates, alice, database):
    registrar.register(asked(alice, "a"))
    pid = gates.connections[0].info.backend_pid
    database.execute("SELECT pg_terminate_backend(%s)", pid)
    assert registrar.register(asked(alice, "b"))
    assert len(gates.connections) == 2


def test_and_only_once(registrar, gates, alice, database):

    def lose_each(**kwargs):
        connection = gates.connect(**kwargs)
        database.execute("SELECT pg_terminate_backend(%s)", connection.info.backend_pid)
        return connection

    registrar._writer._connect = lose_each
    with pytest.raises(UnavailableError):
        registrar.register(asked(alice, "a"))
    assert len(gates.connections) == 2
    registrar._writer._connect = gates.connect
    assert registrar.register(asked(alice, "a"))


@pytest.mark.parametrize(
    "error", [psycopg.errors.DeadlockDetected, psycopg.errors.UniqueViolation]
)
def test_races_go_again_until_they_are_won(registrar, gates, alice, error):
    gates.raises = [error() for _ in range(5)]
    assert registrar.register(asked(alice, "t"))
    assert len(gates.sizes) == 6


@pytest.mark.parametrize(
    "error", [psycopg.errors.DeadlockDetected, psycopg.errors.UniqueViolation]
)
def test_and_no_longer_than_the_deadline(gates, alice, error):
    registrar = Registrar(gates.connect, deadline=0.3)
    gates.raises = [error() for _ in range(10000)]
    start = time.monotonic()
    with pytest.raises(UnavailableError):
        registrar.register(asked(alice, "t"))
    assert 0.3 <= time.monotonic() - start < 2
    registrar.close()


def test_who_waits_too_long_gives_up_and_harms_nobody(gates, pool, alice, database):
    registrar = Registrar(gates.connect, deadline=0.3)
    gates.open.clear()
    first = pool.submit(registrar.register, asked(alice, "first"))
    assert gates.reached.acquire(timeout=5)
    late = pool.submit(registrar.register, asked(alice, "late"))
    with pytest.raises(UnavailableError):
        late.result(5)
    assert registrar._waiting == []
    gates.open.set()
    assert first.result(5)
    assert registrar.register(asked(alice, "next"))
    assert {row["token"] for row in database.push_tokens()} == {"first", "next"}
    registrar.close()


def test_no_more_than_so_many_wait(registrar, gates, pool, alice, monkeypatch):
    monkeypatch.setattr(registrar_module, "MAX_WAITING", 3)
    gates.open.clear()
    futures = [pool.submit(registrar.register, asked(alice, "first"))]
    assert gates.reached.acquire(timeout=5)
    futures += [pool.submit(registrar.register, asked(alice, f"t{n}")) for n in range(3)]
    wait_for(lambda: len(registrar._waiting) == 3)
    with pytest.raises(UnavailableError):
        registrar.register(asked(alice, "one too many"))
    gates.open.set()
    assert all(future.result(10) for future in futures)


def test_a_leader_that_is_killed_leaves_no_lie_and_no_stuck_queue(group, gates, alice, registrar):
    class Killed(BaseException):
        pass

    futures = group(asked(alice, "first"), [])
    gates.raises = [Killed()]
    with pytest.raises(Killed):
        registrar.register(asked(alice, "dies"))
    assert futures == []
    assert gates.connections[0].closed  # an answer could still have been under way on it
    assert registrar.register(asked(alice, "next"))


def test_those_who_waited_for_a_killed_leader_are_told_so(registrar, gates, pool, alice):
    class Killed(BaseException):
        pass

    gates.open.clear()
    first = pool.submit(registrar.register, asked(alice, "first"))
    assert gates.reached.acquire(timeout=5)
    members = [pool.submit(registrar.register, asked(alice, f"t{n}")) for n in range(3)]
    wait_for(lambda: len(registrar._waiting) == 3)
    gates.raises = [Killed(), Killed()]  # the first one alone, then the three
    gates.open.set()
    with pytest.raises(Killed):
        first.result(5)
    outcomes = sorted(type(member.exception(5)).__name__ for member in members)
    assert outcomes == ["Killed", "UnavailableError", "UnavailableError"]
    assert registrar.register(asked(alice, "next"))


def test_an_appointed_leader_that_is_killed_while_it_waits_leaves_its_group_to_the_next(
    registrar, gates, pool, alice, monkeypatch
):
    class Killed(BaseException):
        pass

    class Dying(threading.Event):
        def wait(self, timeout=None):
            super().wait(timeout)
            raise Killed

    gates.open.clear()
    first = pool.submit(registrar.register, asked(alice, "first"))
    assert gates.reached.acquire(timeout=5)
    with monkeypatch.context() as patch:
        patch.setattr(registrar_module, "threading", SimpleNamespace(Event=Dying))
        dies = pool.submit(registrar.register, asked(alice, "dies"))
        wait_for(lambda: len(registrar._waiting) == 1)
    members = [pool.submit(registrar.register, asked(alice, f"t{n}")) for n in range(3)]
    wait_for(lambda: len(registrar._waiting) == 4)
    gates.open.set()
    assert first.result(5)
    assert isinstance(dies.exception(5), Killed)
    assert all(member.result(5) for member in members)


def test_nothing_is_acknowledged_before_its_commit(registrar, gates, alice, database_url):
    """At the moment of each answer another connection sees the row."""
    with psycopg.connect(database_url, autocommit=True) as other:
        for number in range(20):
            row = registrar.register(asked(alice, f"t{number}"))
            seen = other.execute("SELECT 1 FROM push_tokens WHERE id = %s", (row["device_id"],))
            assert seen.fetchone()
    assert gates.connections[0].autocommit


def test_too_many_at_once_is_a_503_that_says_when_to_come_back(client, alice, monkeypatch):
    monkeypatch.setattr(registrar_module, "MAX_WAITING", 0)
    answer = client.post(URL, json=body(), headers=alice.headers)
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "1"


def test_a_valid_request_is_one_round_trip_and_an_invalid_one_asks_who_it_is(
    client, alice, monkeypatch
):
    client.post(URL, json=body(), headers=alice.headers)  # connects and prepares
    exchanges = []
    wait = Connection.wait

    def count(connection, *arguments, **named):
        exchanges.append(connection)
        return wait(connection, *arguments, **named)

    monkeypatch.setattr(Connection, "wait", count)
    assert client.post(URL, json=body(), headers=alice.headers).status_code == 200
    assert len(exchanges) == 1
    assert client.post(URL, json={}, headers=alice.headers).status_code == 400
    assert len(exchanges) > 1
    exchanges.clear()
    assert client.post(URL, json={}).status_code == 401  # no credentials at all: no question
    assert exchanges == []


def test_a_group_that_fails_as_the_database_is_away_is_not_tried_one_by_one(
    registrar, gates, pool, alice
):
    gates.open.clear()
    first = pool.submit(registrar.register, asked(alice, "first"))
    assert gates.reached.acquire(timeout=5)
    members = [pool.submit(registrar.register, asked(alice, f"t{n}")) for n in range(3)]
    wait_for(lambda: len(registrar._waiting) == 3)
    gates.raises = [psycopg.errors.DiskFull(), psycopg.errors.DiskFull()]
    gates.open.set()
    for future in (first, *members):
        assert isinstance(future.exception(5), UnavailableError)
    assert gates.sizes == [1, 3]
