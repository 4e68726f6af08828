"""A connection of the hot path: opened when it is needed, replaced when it was found dead."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import psycopg

from app import metrics
from app.database.connections import Connection
from app.database.exchange import Exchange
from app.database.failures import is_end
from app.registry import registration
from app.registry.held import find_held
from app.registry.registration import Registration


class Writer:
    """One connection in autocommit, whose statements wait for locks for `lock_timeout` seconds.

    A server that does not answer within `silence` seconds counts as gone.
    """

    def __init__(self, connect: Callable[..., Connection], silence: float, lock_timeout: float):
        self._connect = connect
        self._silence = silence
        self._lock_timeout = lock_timeout
        self._exchange: Exchange | None = None
        # Names are resolved and hosts tried in a thread: libpq may block in both.
        self._thread = ThreadPoolExecutor(1, "connect")

    @property
    def is_connected(self) -> bool:
        """Tell whether there is a connection; not that it still works."""
        return self._exchange is not None and self._exchange.is_open

    async def write(self, asked: Sequence[Registration], deadline: float) -> Sequence[object]:
        """Store registrations of one round (`registration.rounds`); return what became of each.

        As registering twice is registering, a connection found dead is replaced and the statement
        sent again, once and before `deadline` (of the loop's clock). Raises psycopg.Error.
        """
        is_spare_left = True
        while True:
            exchange = None
            try:
                exchange = await self._connected()
                return await exchange.run(registration.register(asked))
            except psycopg.Error as error:
                metrics.count_database_error(error)
                if exchange and is_end(error):  # the server says so before it closes the socket
                    exchange.close()
                is_lost = exchange is not None and not exchange.is_open
                too_late = asyncio.get_running_loop().time() >= deadline
                if not is_lost or not is_spare_left or too_late:
                    raise
                is_spare_left = False

    async def find_held(self, asked: Sequence[Registration]) -> set[int]:
        """Return the places of the registrations whose rows another transaction has locked."""
        exchange = await self._connected()
        return await exchange.run(find_held(asked))

    def close(self) -> None:
        """Close the connection for good."""
        if self._exchange:
            self._exchange.close()
        self._thread.shutdown(wait=False)

    async def _connected(self) -> Exchange:
        if self._exchange is None or not self._exchange.is_open:
            loop = asyncio.get_running_loop()
            connection = await loop.run_in_executor(self._thread, self._open)
            self._exchange = Exchange(connection, self._silence)
        return self._exchange

    def _open(self) -> Connection:
        more = {"lock_timeout": self._lock_timeout, "session": registration.SESSION_SETTINGS}
        return self._connect(autocommit=True, **more)
