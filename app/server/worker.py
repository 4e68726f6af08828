"""gunicorn's worker: one event loop, with uvicorn's server in it.

gunicorn's master imports this module, so it imports nothing else of ours: what it did import would
stay as it is when HUP brings new code.
"""

import asyncio
import ctypes
import importlib
import mmap
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import uvloop
from gunicorn.workers.base import Worker
from uvicorn import Config, Server

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
SWEEP = 0.25  # seconds between two looks at the deadlines of connections
M_MMAP_THRESHOLD = -3  # of malloc.h
LARGE_BLOCK = 256 * 1024  # bytes
# Seconds for which a thread keeps the interpreter while the event loop waits for it: 5 ms, the
# default, would be the least that a request beside a busy thread takes.
SWITCH_INTERVAL = 0.0005


# Shared by the master and all its workers: 1 from TERM on, while requests are still served.
DRAINING = mmap.mmap(-1, 1)


def is_draining() -> bool:
    """Tell whether this instance is about to end."""
    return DRAINING[0] == 1


class EventLoopWorker(Worker):  # type: ignore[misc]  # gunicorn has no types
    """A worker process."""

    def init_signals(self) -> None:
        """Have a signal that ends the worker end it at once, as long as it does not serve.

        They were blocked for the fork (gunicorn_conf.py): the master's handlers, which the child
        inherits, would only have noted them.
        """
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        for number in ENDING:  # not by an exception: an import may swallow that
            signal.signal(number, lambda *_: os._exit(0))
        signal.signal(signal.SIGUSR1, self.handle_usr1)
        signal.signal(signal.SIGABRT, self.handle_abort)
        signal.siginterrupt(signal.SIGUSR1, False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)

    def load_wsgi(self) -> None:
        """Load the service anew: HUP is an upgrade of all its modules.

        The master has imported some for its configuration, as they were when it started.
        """
        for name in [name for name in sys.modules if name.partition(".")[0] == "app"]:
            if name not in ("app.gunicorn_conf", __name__):
                del sys.modules[name]
        logger = importlib.import_module("app.server.logger")
        logger.configure(self.cfg.loglevel)
        super().load_wsgi()

    def run(self) -> None:
        """Serve until a signal, or the number of requests, ends the worker."""
        sys.setswitchinterval(SWITCH_INTERVAL)
        _return_large_blocks()
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        from app.server.front import Front  # noqa: PLC0415 (see above)
        from app.server.protocol import Protocol  # noqa: PLC0415 (see above)

        self._front = Front(self.wsgi, is_draining)
        config = Config(
            self._front,
            http=Protocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=self.cfg.backlog,
            timeout_keep_alive=self.cfg.keepalive,
            timeout_notify=1,
            callback_notify=self._notify,
            limit_max_requests=self.max_requests,
            timeout_graceful_shutdown=self.cfg.graceful_timeout,
        )
        self._server = QuietServer(config)
        sweeping = asyncio.get_running_loop().create_task(self._sweep())
        try:
            await self._server.serve(sockets=[listener.sock for listener in self.sockets])
        finally:
            sweeping.cancel()
            self._front.close()

    async def _notify(self) -> None:
        """Tell the master that the loop goes round; end with it."""
        self.notify()
        if os.getppid() != self.ppid:
            self._server.should_exit = True

    async def _sweep(self) -> None:
        """Close connections whose deadline has passed."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP)
            self._front.observe()
            now = loop.time()
            for connection in list(self._server.server_state.connections):
                if connection.deadline <= now:  # type: ignore[union-attr]  # all are Protocol
                    connection.expire()  # type: ignore[union-attr]  # as above


def _return_large_blocks() -> None:
    """Have the memory of large bodies and answers go back to the system when it is freed.

    glibc raises the size from which it does so to that of the largest block that was freed.
    """
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)


class QuietServer(Server):
    """uvicorn's server, which ends the process by returning.

    uvicorn raises a signal that ended it once more, and then neither gunicorn's hooks nor atexit
    run; and it takes no notice of SIGQUIT.
    """

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Have signals end the server: TERM after what was begun, INT and QUIT at once."""
        loop = asyncio.get_running_loop()
        for number in ENDING:
            loop.add_signal_handler(number, self._end, number)
        yield

    def _end(self, number: Any) -> None:
        self.should_exit = True
        self.force_exit = self.force_exit or number != signal.SIGTERM
