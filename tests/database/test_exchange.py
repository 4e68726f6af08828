"""A connection that an event loop drives, when its server ends."""

import asyncio
import os
import signal

import psycopg
import pytest
import uvloop

from app.database.connections import connector
from app.database.exchange import Exchange
from tests.support.clusters import is_stopped
from tests.support.patience import wait_until


def test_the_end_of_a_server_that_left_a_statement_unread_is_noticed(app):
    """Its last words and the socket's error come at one moment, of which uvloop tells once."""

    async def exchanged() -> None:
        connect = connector(app.extensions["push_registry"].settings)
        connection = connect(autocommit=True)
        server = connection.info.backend_pid
        exchange = Exchange(connection, silence=600)
        try:
            await exchange.fetch("SELECT 1", {})
            os.kill(server, signal.SIGSTOP)
            task = asyncio.create_task(exchange.fetch("SELECT 1", {}))
            await asyncio.sleep(0)  # it is sent
            os.kill(server, signal.SIGTERM)
            os.kill(server, signal.SIGCONT)
            wait_until(lambda: is_stopped(server))  # the loop sees nothing meanwhile
            with pytest.raises(psycopg.OperationalError):
                await asyncio.wait_for(task, 30)
            assert not exchange.is_open
        finally:
            exchange.close()

    uvloop.run(exchanged())
