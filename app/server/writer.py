"""A connection of the hot path: opened when needed, replaced when found dead, or old."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import psycopg

from app import metrics
from app.database.connections import Connection
from app.database.exchange import Exchange
from app.registry.registration import Outcome, Registration, Steps
from app.registry.ways import Way

RENEWAL_PAUSE = 10.0  # seconds until the next try to replace an old connection


class Writer:
    """One connection in autocommit, whose statements wait for locks for `lock_timeout` seconds.

    A server that does not answer within `silence` seconds counts as gone. After `max_age` seconds
    a new connection is opened while the old one works on, so that no registration waits for it.
    """

    def __init__(
        self,
        connect: Callable[..., Connection],
        way: Way,
        *,
        silence: float,
        lock_timeout: float,
        max_age: float,
    ):
        self._connect = connect
        self._way = way
        self._silence = silence
        self._lock_timeout = lock_timeout
        self._max_age = max_age
        self._exchange: Exchange | None = None
        self._next: Exchange | None = None  # takes the place of `_exchange` before a statement
        self._clock: asyncio.TimerHandle | None = None
        self._renewing: asyncio.Task[None] | None = None
        # Names are resolved and hosts tried in a thread: libpq may block in both.
        self._thread = ThreadPoolExecutor(1, "connect")

    @property
    def is_connected(self) -> bool:
        """Tell whether there is a connection; not that it still works."""
        return self._exchange is not None and self._exchange.is_open

    async def write(
        self,
        verb: Callable[[Sequence[Registration]], Steps],
        asked: Sequence[Registration],
        deadline: float,
    ) -> Sequence[Outcome]:
        """Store registrations of one round by a verb of app/registry/ways.py.

        Returns what became of each. As registering twice is registering, a connection found dead
        is replaced and the statement sent again, once and before `deadline` (of the loop's clock).
        Raises psycopg.Error.
        """
        is_spare_left = True
        while True:
            exchange = None
            try:
                exchange = await self._connected()
                return await exchange.run(verb(asked))
            except psycopg.Error as error:
                metrics.count_database_error(error)
                is_lost = exchange is not None and not exchange.is_open
                too_late = asyncio.get_running_loop().time() >= deadline
                if not is_lost or not is_spare_left or too_late:
                    raise
                is_spare_left = False

    async def find_held(self, asked: Sequence[Registration]) -> set[int]:
        """Return the places of the registrations whose rows another transaction has locked."""
        exchange = await self._connected()
        return await exchange.run(self._way.find_held(asked))

    def close(self) -> None:
        """Close the connection for good."""
        for pending in (self._clock, self._renewing):
            if pending:
                pending.cancel()
        for exchange in (self._exchange, self._next):
            if exchange:
                exchange.close()
        self._thread.shutdown(wait=False)

    async def _connected(self) -> Exchange:
        if self._next is not None:
            if self._exchange is not None:
                self._exchange.close()
            self._exchange, self._next = self._next, None
        if self._exchange is None or not self._exchange.is_open:
            self._exchange = await self._opened()
        return self._exchange

    async def _opened(self) -> Exchange:
        loop = asyncio.get_running_loop()
        connection = await loop.run_in_executor(self._thread, self._open)
        self._renew_in(self._max_age)
        return Exchange(connection, self._silence)

    def _renew_in(self, seconds: float) -> None:
        if self._clock:
            self._clock.cancel()
        self._clock = asyncio.get_running_loop().call_later(seconds, self._renew)

    def _renew(self) -> None:
        self._renewing = asyncio.get_running_loop().create_task(self._open_next())

    async def _open_next(self) -> None:
        """Open the connection that is used next; the old one stays while that is not possible."""
        try:
            self._next = await self._opened()
        except psycopg.Error as error:
            metrics.count_database_error(error)
            self._renew_in(RENEWAL_PAUSE)

    def _open(self) -> Connection:
        more = {"lock_timeout": self._lock_timeout, "session": self._way.settings}
        return self._connect(autocommit=True, **more)
