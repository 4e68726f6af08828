"""Many devices at one instant, through several workers: no error, one row, nothing orphaned.

Each worker here is an app with a registrar and a pool of its own, as in gunicorn's processes.
"""

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from app.database.failures import RETRYABLE
from app.registry.registration import Registration
from tests.support.factories import Caller, body
from tests.support.registering import connect, run_all

URL = "/api/v1/push.token"
WORKERS = 4
THREADS = 24
CALLS = 5 * THREADS

Call = Callable[[Any], Any]


@pytest.fixture
def race(new_app, database_url):
    """A function that runs calls at once and returns their answers, in the calls' order."""
    # All in one process: who holds a lock waits for the interpreter, with 24 threads on it.
    patient = {"database_lock_timeout": 8, "database_statement_timeout": 9, "request_deadline": 30}
    apps = [new_app(database_url=database_url, **patient) for _ in range(WORKERS)]
    clients = [app.test_client() for app in apps]

    def race(calls: Iterable[Call]) -> list[Any]:
        todo = list(enumerate(calls))
        answers: dict[int, Any] = {}
        barrier = threading.Barrier(THREADS)

        def work(number: int) -> None:
            client = clients[number % WORKERS].application.test_client()
            barrier.wait()
            for place, call in todo[number::THREADS]:
                answers[place] = call(client)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return [answers[place] for place, _ in todo]

    return race


def register(caller: Caller, **fields: object) -> Call:
    return lambda client: client.post(URL, json=body(**fields), headers=caller.headers)


def log_out(caller: Caller) -> Call:
    return lambda client: client.post("/api/v1/logout", headers=caller.headers)


def remove(caller: Caller, value: str) -> Call:
    return lambda client: client.delete(URL, json={"token": value}, headers=caller.headers)


def statuses(answers: list[Any]) -> Counter[int]:
    return Counter(answer.status_code for answer in answers)


@pytest.mark.parametrize("fields", [{}, {"id": "device"}])
def test_the_same_value_at_once_is_one_row(race, database, alice, fields):
    answers = race(register(alice, **fields) for _ in range(CALLS))
    assert statuses(answers) == {200: CALLS}
    assert len({answer.json["result"]["_id"] for answer in answers}) == 1
    assert len({answer.json["result"]["createdAt"] for answer in answers}) == 1
    assert len(database.push_tokens()) == 1


def test_two_users_with_one_device_end_with_one_of_them(race, database, alice, bob):
    answers = race(register(caller) for caller in [alice, bob] * (CALLS // 2))
    assert statuses(answers) == {200: CALLS}
    for answer, user_id in zip(answers, ["alice", "bob"] * (CALLS // 2), strict=True):
        assert answer.json["result"]["userId"] == user_id
    (row,) = database.push_tokens()
    owner = {"alice": alice, "bob": bob}[row["user_id"]]
    assert row["session_hash"] == owner.token_hash


def test_the_same_id_with_many_values_ends_with_one_of_them(race, database, alice):
    answers = race(register(alice, id="device", value=f"v{n}") for n in range(CALLS))
    assert statuses(answers) == {200: CALLS}
    (row,) = database.push_tokens()
    assert row["device_id"] == "device"


def test_few_ids_rotate_over_few_values(race, database, alice, bob):
    choose = random.Random(1)
    calls = [
        register(
            choose.choice([alice, bob]),
            value=f"v{choose.randrange(4)}",
            **choose.choice([{}, {"id": f"d{choose.randrange(4)}"}]),
        )
        for _ in range(2 * CALLS)
    ]
    answers = race(calls)
    assert statuses(answers) == {200: 2 * CALLS}
    rows = database.push_tokens()
    assert len({row["token"] for row in rows}) == len(rows) <= 4


@pytest.mark.parametrize("fields", [{}, {"id": "device"}])
def test_a_logout_at_the_same_instant_leaves_no_orphan(race, database, sweep, fields):
    for _ in range(6):
        callers = [database.sign_in(f"u{n}") for n in range(20)]
        names = [{name: f"{value}{n}" for name, value in fields.items()} for n in range(20)]
        calls = [
            call
            for caller, named in zip(callers, names, strict=True)
            for call in (
                register(caller, value=f"a{caller.user_id}", **named),
                log_out(caller),
                register(caller, value=f"b{caller.user_id}"),
                register(caller, value="shared"),
            )
        ]
        answers = race(calls)
        assert set(statuses(answers)) <= {200, 401}
        assert statuses(answers[1::4]) == {200: 20}
        sweep()
        assert database.push_tokens() == []


def test_registering_and_removing_at_once_is_either_or(race, database, alice):
    calls = [register(alice, value="v"), remove(alice, "v")] * CALLS
    answers = race(calls)
    assert statuses(answers[0::2]) == {200: CALLS}
    assert set(statuses(answers[1::2])) <= {200, 404}
    assert len(database.push_tokens()) <= 1


def test_a_phones_two_push_tokens_come_and_go_together(race, database, alice):
    """Its VoIP row is locked out of the order where the other goes; who meets that tries again."""
    phone = {"type": "apn", "id": "phone", "appName": "calls"}
    both = [{**phone, "value": f"{n:064x}", "voipToken": f"{n + 9:064x}"} for n in range(2)]
    turn = [
        call
        for fields in both
        for call in (register(alice, **fields), remove(alice, str(fields["value"])))
    ]
    answers = race(turn * 30)
    assert statuses(answers[0::2]) == {200: 60}
    assert set(statuses(answers[1::2])) <= {200, 404}
    kinds = [row["type"] for row in database.push_tokens()]
    assert sorted(kinds) in ([], ["apn"], ["apn", "voip"])
    race([remove(alice, str(fields["value"])) for fields in both])
    assert database.push_tokens() == []


@pytest.mark.parametrize("size", [1, 4])
def test_crossing_devices_and_values_leaves_one_row_of_each(migrated, database, size):
    """Several workers' connections, with few users, ids and values on purpose, rows going away."""
    callers = [database.sign_in(name) for name in ("alice", "bob")]
    errors: list[BaseException] = []
    done = Counter[str]()

    def work(seed: int) -> None:
        choose = random.Random(seed)
        try:
            with connect(migrated[0], options="-c lock_timeout=10s") as connection:
                for _ in range(60):
                    asked = [asked_of(choose) for _ in range(size)]
                    try:
                        results, raced = run_all(connection, asked)
                    except RETRYABLE:
                        done.update(deadlocks=1)
                        results, raced = run_all(connection, asked)
                    assert all(results)
                    done.update(done=size, raced=raced)
                    if choose.random() < 0.2:
                        value = f"v{choose.randrange(6)}"
                        connection.execute("DELETE FROM push_tokens WHERE token = %s", [value])
        except BaseException as error:
            errors.append(error)

    def asked_of(choose: random.Random) -> Registration:
        caller = choose.choice(callers)
        return Registration(
            caller.token_hash,
            caller.user_id,
            "app",
            f"v{choose.randrange(6)}",
            "gcm",
            device_id=choose.choice([None, "d0", "d1", "d2"]),
        )

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert errors == []
    assert done["done"] == 6 * 60 * size
    # A row that was inserted after a statement's snapshot and is being renewed: inserting it again
    # waits. A group of the service has given up by the time that PostgreSQL sees a deadlock.
    assert done["deadlocks"] <= 3
    rows = database.push_tokens()
    assert len({row["token"] for row in rows}) == len(rows) <= 6
    assert len({(row["user_id"], row["device_id"]) for row in rows}) == len(rows)
