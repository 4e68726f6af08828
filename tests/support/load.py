"""A steady load of registrations, and an account of what was acknowledged."""

import http.client
import json
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg

from app.limits import iso
from tests.support.factories import Caller
from tests.support.patience import Stalls, wait_until

PATH = "/api/v1/push.token"
APP = "load"


@dataclass(frozen=True)
class Outcome:
    """What became of one request; times are of time.monotonic()."""

    begin: float
    end: float
    status: object  # of HTTP, or the name of the exception that took its place


class Client(threading.Thread):
    """One after the other: registers new push tokens and refreshes its own, half with an id."""

    def __init__(self, address: str, caller: Caller, pace: float):
        super().__init__(daemon=True)
        self.address = address
        self.caller = caller
        self.pace = pace
        self.ended = threading.Event()
        self.acknowledged: dict[str, dict[str, str]] = {}
        self.outcomes: list[Outcome] = []

    def run(self) -> None:
        """Register until told to end."""
        connection = http.client.HTTPConnection(self.address, timeout=60)
        while not self.ended.is_set():
            begin = time.monotonic()
            status = self.register(connection)
            self.outcomes.append(Outcome(begin, time.monotonic(), status))
            self.ended.wait(random.uniform(0.5, 1.5) * self.pace)
        connection.close()

    def register(self, connection: http.client.HTTPConnection) -> object:
        """Register once; return the status or the name of the exception."""
        token, device_id = self.named()
        fields = {"type": "gcm", "value": token, "appName": APP}
        if device_id:
            fields["id"] = device_id
        headers = {"Content-Type": "application/json", **self.caller.headers}
        try:
            connection.request("POST", PATH, json.dumps(fields), headers)
            answer = connection.getresponse()
            said = json.load(answer)
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            return type(error).__name__
        if answer.status == 200:
            self.acknowledged[token] = said["result"]
        return answer.status

    def named(self) -> tuple[str, str | None]:
        """Choose the push token and the device's id of the next registration."""
        number = random.randrange(5000)
        token = f"{self.caller.user_id}-{number}"
        return token, (f"device-{number}" if number % 2 else None)


def percentile(share: float, outcomes: Sequence[Outcome]) -> float:
    """Return the seconds within which a share of requests were answered."""
    times = sorted(outcome.end - outcome.begin for outcome in outcomes)
    return times[math.ceil(share * len(times)) - 1]


@dataclass
class Load:
    """The clients together, and the stalls of the machine meanwhile."""

    clients: Sequence[Client]
    stalls: Stalls = field(default_factory=Stalls)

    def end(self) -> None:
        """Have every client make no further request, and wait for the last answers."""
        for client in self.clients:
            client.ended.set()
        for client in self.clients:
            client.join(90)
            assert not client.is_alive(), "a client never got an answer"
        self.stalls.end()

    def outcomes(self, since: float = -math.inf, until: float = math.inf) -> list[Outcome]:
        """Return what became of the requests that ended in a span of time."""
        all_of_them = [outcome for client in self.clients for outcome in list(client.outcomes)]
        return [outcome for outcome in all_of_them if since <= outcome.end <= until]

    def statuses(self, since: float = -math.inf, until: float = math.inf) -> Counter[object]:
        """Count what was answered in a span of time."""
        return Counter(outcome.status for outcome in self.outcomes(since, until))

    def failures(self) -> Counter[object]:
        """Count all that was not answered 200."""
        return Counter({status: n for status, n in self.statuses().items() if status != 200})

    def begun(self, since: float) -> Counter[object]:
        """Count what was answered to the requests that began since then."""
        return Counter(outcome.status for outcome in self.outcomes(since) if outcome.begin > since)

    def each_again(self, times: int = 1) -> Counter[object]:
        """Wait until each client was answered requests that it begins from now on; count all."""
        since = time.monotonic()
        for client in self.clients:
            wait_until(lambda c=client: sum(o.begin > since for o in list(c.outcomes)) >= times)
        return self.begun(since)

    def until_acknowledged(self, more: int) -> None:
        """Wait until so many requests more were acknowledged."""
        enough = self.statuses()[200] + more
        wait_until(lambda: self.statuses()[200] >= enough)

    def first_success(self, since: float, seconds: float = 180) -> float:
        """Wait for an acknowledgement of a request made after `since`; return its time."""
        deadline = time.monotonic() + seconds
        while True:
            found = [o.end for o in self.outcomes(since) if o.status == 200 and o.begin >= since]
            if found:
                return min(found)
            assert time.monotonic() < deadline, self.statuses(since)
            time.sleep(0.01)

    def slowest(self) -> float:
        """Return the seconds of the slowest request, without those of stalls."""
        return max(
            outcome.end - outcome.begin - self.stalls.within(outcome.begin, outcome.end)
            for outcome in self.outcomes()
        )

    def percentile(self, share: float, since: float, until: float = math.inf) -> float:
        """Return the seconds within which a share of the requests were answered."""
        return percentile(share, self.outcomes(since, until))

    def acknowledged(self) -> int:
        """Return how many registrations were acknowledged."""
        return sum(len(client.acknowledged) for client in self.clients)

    def lost(self, connection: psycopg.Connection) -> list[str]:
        """Return the push tokens that are not stored as they were last acknowledged.

        Or later: a request that was answered with an error may have been stored or not.
        """
        query = """
            SELECT token, coalesce(to_jsonb(p) ->> 'device_id', id), user_id, updated_at
            FROM push_tokens p
            WHERE app_name = %s
        """  # before revision 0008 the row's id was the device's name
        with connection.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
            stored = {token: rest for token, *rest in cursor.execute(query, (APP,))}
        missing = []
        for client in self.clients:
            for token, said in client.acknowledged.items():
                name, user_id, updated_at = stored.get(token, (None, None, None))
                same = (name, user_id) == (said["_id"], said["userId"])
                if not same or iso(updated_at) < said["updatedAt"]:
                    missing.append(token)
        return missing


@contextmanager
def load(
    address: str, callers: Sequence[Caller], pace: float = 0.1, kind: type[Client] = Client
) -> Iterator[Load]:
    """Have callers register, each about every `pace` seconds, until the end of the `with`."""
    clients = [kind(address, caller, pace) for caller in callers]
    stalls = Stalls()
    for thread in (stalls, *clients):
        thread.start()
    all_of_them = Load(clients, stalls)
    try:
        yield all_of_them
    finally:
        all_of_them.end()
