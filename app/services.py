"""What the parts of one app share, as a typed object instead of names in `app.extensions`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from flask import Flask, current_app

from app import metrics
from app.config import Settings
from app.database import retries
from app.database.connections import Connection
from app.database.replica import Replica, UnusableError
from app.identity.confirmation import Confirmation
from app.models import db

T = TypeVar("T")


@dataclass
class Services:
    """The settings of an app, and what it opened by them."""

    settings: Settings
    connect: Callable[..., Connection]
    confirmation: Confirmation | None = None  # None: sessions are only known here
    replica: Replica | None = None  # None: all is read from the primary
    openapi: bytes | None = None  # the document, once it was asked for
    is_draining: Callable[[], bool] = lambda: False  # TERM has come; requests are still served
    key_uses: dict[bytes, float] = field(default_factory=dict)  # when next to note a key's use

    def retrying(self, verb: Callable[[], T]) -> T:
        """Run a verb within the deadline of a request; see `retries.retrying`."""
        return retries.retrying(verb, self.settings.request_deadline)

    def committed(self, verb: Callable[[], T]) -> T:
        """Run a verb and commit within the deadline of a request; see `retries.committed`."""
        return retries.committed(verb, self.settings.request_deadline)

    def attempted(self, verb: Callable[[], object]) -> bool:
        """Run a verb and commit, once; tell whether it worked. See `retries.attempted`."""
        return retries.attempted(verb)

    def read(self, verb: Callable[[], T]) -> T:
        """Run a verb that only reads, on a replica where there is one; see `Replica.read`.

        No connection is held afterwards.
        """
        if self.replica:
            try:
                result = self.replica.read(verb)
            except UnusableError:
                metrics.READS.labels("primary").inc()
            else:
                metrics.READS.labels("replica").inc()
                return result
        return self.committed(verb)

    def close(self) -> None:
        """Close all connections to PostgreSQL; an app context is pushed."""
        db.engine.dispose()
        if self.replica:
            self.replica.close()
        if self.confirmation:
            self.confirmation.close()


def init_app(app: Flask, settings: Settings, connect: Callable[..., Connection]) -> None:
    """Give the app its services."""
    confirmation = Confirmation(settings) if settings.recheck is not None else None
    replica = Replica(settings) if settings.database_read_url else None
    app.extensions["push_registry"] = Services(settings, connect, confirmation, replica)


def of(app: Flask) -> Services:
    """Return the services of an app."""
    services: Services = app.extensions["push_registry"]
    return services


def current() -> Services:
    """Return the services of the app that runs now."""
    return of(current_app)
