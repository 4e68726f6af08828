"""Made-up credentials do not use up Rocket.Chat's rate limiter of 10 questions a minute."""

import threading
import time

import pytest

from app.identity import budget
from app.identity.budget import Budget, source_of
from tests.support.chat import Handler, chat, honest
from tests.support.factories import Caller, body

URL = "/api/v1/push.token"
LIMIT = 10


class Clock:
    """A clock that only moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(budget, "time", clock)
    return clock


@pytest.fixture
def server(clock):
    """Rocket.Chat with its limiter, which counts every question; by the clock of the test."""
    moments: list[float] = []

    def limited(handler: Handler) -> None:
        moments.append(clock.now)
        if sum(moment > clock.now - 60 for moment in moments) > LIMIT:
            handler.say(429, {"success": False, "error": "Error, too many requests."})
        else:
            honest(handler)

    with chat() as server:
        server.fault = limited
        yield server


@pytest.fixture
def client(new_app, database_url, server):
    app = new_app(database_url=database_url, auth_backend="rocketchat", rocketchat_url=server.url)
    return app.test_client()


@pytest.mark.parametrize("address", ["", "192.0.2.7"])
@pytest.mark.parametrize("user", ["alice", None])
def test_a_new_user_signs_in_after_a_flood_of_junk(client, server, clock, address, user):
    """From the same address, too, and under a user's name; it may have to wait for its turn."""
    server.signed_in["good"] = "alice"
    via = {"X-Forwarded-For": address} if address else {}
    for number in range(12):
        junk = Caller(user or f"user{number}", f"junk{number}")
        answer = client.post(URL, json=body(), headers=junk.headers | via)
        assert answer.status_code == 401
    clock.slept = 0
    server.signed_in["good"] = "alice"
    answer = client.post(URL, json=body(), headers=Caller("alice", "good").headers | via)
    assert answer.status_code == 200
    assert clock.slept < 10


def test_junk_has_its_share_and_no_more(clock):
    tokens = Budget(LIMIT, None)
    asked = 0
    for second in range(60):
        while asked < 100 and tokens.take(f"{second} {asked}", 0):
            asked += 1
            tokens.denied("x")
        clock.now += 1
    assert asked == 9  # 3 at once, and one each 9 s


def test_a_confirmation_costs_nothing(clock):
    tokens = Budget(LIMIT, None)
    for _ in range(100):
        assert tokens.take("192.0.2.1", 0)
        tokens.give_back()
    assert clock.slept == 0


def test_there_is_never_more_than_the_share(clock):
    tokens = Budget(LIMIT, None)
    for _ in range(100):
        tokens.give_back()
    clock.now += 3600
    assert [tokens.take("x", 0) for _ in range(4)] == [True] * 3 + [False]


def test_processes_share_the_tokens(clock, tmp_path):
    first, second = (Budget(LIMIT, str(tmp_path)) for _ in range(2))
    found = [one.take("x", 0) for _ in range(3) for one in (first, second)]
    assert found == [True] * 3 + [False] * 3
    first.give_back()
    assert second.take("x", 0)
    for one in (first, second):
        one.close()


def test_a_folder_that_is_gone_leaves_each_process_its_own(clock, tmp_path):
    assert Budget(LIMIT, str(tmp_path / "none")).take("x", 0)


def test_newcomers_go_before_those_that_were_denied(monkeypatch):
    """A suspect finds no token while a newcomer waits, and few of them wait."""
    monkeypatch.setattr(budget, "POLL", 0.01)
    tokens = Budget(LIMIT, None)
    for _ in range(3):
        assert tokens.take("suspect", 0)
        tokens.denied("suspect")
    taken: list[str] = []

    def wait(source: str) -> None:
        if tokens.take(source, 20):
            taken.append(source)

    waiting = [threading.Thread(target=wait, args=[source]) for source in ("suspect", "new")]
    for thread in waiting:
        thread.start()
    deadline = time.monotonic() + 60
    while tokens._waiting != {False: 1, True: 1}:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not tokens.take("suspect", 20)  # at once: the only place is taken
    tokens.give_back()
    waiting[1].join(60)
    assert taken == ["new"]
    tokens.give_back()
    waiting[0].join(60)
    assert taken == ["new", "suspect"]


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:0:1ff:a::1", "2001:db8:0:100::/56"),
        ("", "alice"),
        ("unknown", "alice"),
    ],
)
def test_a_source_is_an_address_an_ipv6_network_or_a_user(address, source):
    assert source_of(address, "alice") == source
