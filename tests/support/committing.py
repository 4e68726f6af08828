"""A group commit in an event loop of its own thread, whose statements wait at a gate."""

import asyncio
import dataclasses
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import psycopg
import uvloop

from app.config import Settings
from app.database.connections import connector
from app.database.exchange import Exchange
from app.registry.registration import Registration
from app.server import writer
from app.server.group_commit import GroupCommit
from tests.support.factories import Caller


def asked(caller: Caller, token: str, type_: str = "gcm", **more: object) -> Registration:
    return Registration(caller.token_hash, caller.user_id, "app", token, type_, **more)


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Gates:
    """What a test sees and steers of the connections of a group commit."""

    def __init__(self, database_url: str, **settings: float):
        self.settings = Settings(database_url=database_url, **settings)
        self._connect = connector(self.settings)
        self.open = threading.Event()
        self.open.set()
        self.reached = threading.Semaphore(0)
        self.sizes: list[int] = []  # registrations in each statement
        self.raises: list[Exception] = []
        self.connections: list[psycopg.Connection] = []

    def connect(self, **kwargs: object) -> psycopg.Connection:
        self.connections.append(self._connect(**kwargs))
        return self.connections[-1]

    @staticmethod
    def tokens(parameters: dict[str, str]) -> list[str]:
        """Return the push tokens that a statement is to write, or to claim before that."""
        if "asked" in parameters:
            return [member["token"] for member in json.loads(parameters["asked"])]
        return re.findall(r'"app\n([^"\n]*)"', parameters.get("names", ""))

    async def pass_through(self, parameters: dict[str, str]) -> None:
        if "asked" in parameters:
            self.sizes.append(len(json.loads(parameters["asked"])))
        elif "hashes" in parameters:  # the one statement of a distributed PostgreSQL that waits
            self.sizes.append(parameters["hashes"].count('"') // 2)
        else:
            return
        self.reached.release()
        deadline = time.monotonic() + 120
        while not self.open.is_set():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.001)
        if self.raises:
            raise self.raises.pop()

    def exchange(self) -> type[Exchange]:
        gates = self

        class GatedExchange(Exchange):
            async def fetch(self, statement, parameters):
                await gates.pass_through(parameters)
                return await super().fetch(statement, parameters)

        return GatedExchange


class Committing:
    """A group commit, called from any thread."""

    def __init__(self, gates: Gates, loop: asyncio.AbstractEventLoop, commit: GroupCommit):
        self.gates = gates
        self.commit = commit
        self._loop = loop

    def submit(self, registration: Registration) -> Future:
        """Register; the future has the row, None, or the exception."""
        future: Future = Future()

        def done(outcome):
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome and outcome.row)

        def register():
            try:
                self.commit.register(registration, done)
            except Exception as error:
                future.set_exception(error)

        self._loop.call_soon_threadsafe(register)
        return future

    def register(self, registration: Registration):
        return self.submit(registration).result(60)

    @property
    def waiting(self) -> int:
        return len(self.commit._groups.queue)

    def group(self, leader: Registration, members: list[Registration]) -> list[Future]:
        """Have registrations written as one group, in order; return futures.

        A first registration, of `leader`, is held at the gate while the group gathers.
        """
        self.gates.open.clear()
        while self.gates.reached.acquire(blocking=False):
            pass  # what came before
        first = self.submit(leader)
        assert self.gates.reached.acquire(timeout=60)
        futures = [self.submit(member) for member in members]
        wait_for(lambda: self.waiting == len(members))
        self.gates.sizes.clear()
        self.gates.open.set()
        first.result(60)
        return futures


@contextmanager
def committing(
    gates: Gates,
    monkeypatch,
    deadline: float = 60,
    lock_timeout: float = 30,
    statement_timeout: float = 60,
    max_age: float = 300,
) -> Iterator[Committing]:
    """Run a group commit until the end of the `with`; patient, as a busy machine stalls."""
    monkeypatch.setattr(writer, "Exchange", gates.exchange())
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    settings = dataclasses.replace(
        gates.settings,
        request_deadline=deadline,
        database_statement_timeout=statement_timeout,
        database_lock_timeout=lock_timeout,
        database_max_age_seconds=max_age,
    )
    commit = GroupCommit(gates.connect, settings)
    try:
        yield Committing(gates, loop, commit)
    finally:

        async def close() -> None:
            commit.close()
            await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(close(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()
