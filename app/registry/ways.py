"""The two ways of what one statement cannot do on one PostgreSQL and on a distributed one.

`DATABASE_DISTRIBUTED` chooses: one_node/ locks several rows, distributed/ does without.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Select

from app.models import db
from app.registry import distributed, held, one_node, registration
from app.registry.distributed import locks as distributed_locks
from app.registry.distributed import registration as distributed_registration
from app.registry.one_node import locks as one_node_locks
from app.registry.registration import Registration, Steps

Register = Callable[[Sequence[Registration]], Steps]


class Locks(Protocol):
    """What either room has in its locks.py."""

    def bring_settings(self) -> None:
        """Set what a registration relies on, for the transaction."""

    def lock_sessions(
        self, which: ColumnElement[bool], *, skip_locked: bool = False
    ) -> Sequence[bytes]:
        """Return the hashes of sessions, locked where that is possible."""

    def lock_registrations(
        self, which: ColumnElement[bool], *, skip_locked: bool = False
    ) -> Sequence[str]:
        """Return the ids of registrations, locked where that is possible."""

    def remove(
        self, found: Select[str], *, skip_locked: bool = False, limit: int | None = None
    ) -> tuple[int, Sequence[Any]]:
        """Remove what a select of ids finds, and the VoIP registrations of their devices.

        Return how many, and user, app name, device, type and push token of what was found.
        """

    def removing(
        self, found: Select[str], *, skip_locked: bool = False, limit: int | None = None
    ) -> Callable[..., int]:
        """Return a function that does so for the select's parameters, and says how many went.

        For what nobody registers at that instant, or what would not go once renewed.
        """

    def end_sessions(
        self, which: ColumnElement[bool], at_once: int, *, skip_locked: bool = False
    ) -> tuple[int, int]:
        """End sessions; return how many, and how many registrations."""


@dataclass(frozen=True)
class Way:
    """How to write, each of it for one round of registrations.

    `register` within a transaction, the other verbs in autocommit: `renew_or_add` what is quick,
    `settle` whatever it takes.
    """

    settings: Mapping[str, str]
    register: Register
    renew_or_add: Register
    settle: Register
    find_held: Callable[[Sequence[Registration]], Generator[Any, Any, set[int]]]
    locks: Locks


SINGLE = Way(
    one_node.SESSION_SETTINGS,
    registration.register,
    registration.renew_or_add,
    registration.register,
    held.find_held,
    one_node_locks,
)
DISTRIBUTED = Way(
    distributed.SESSION_SETTINGS,
    distributed_registration.register,
    distributed_registration.register_and_commit,
    distributed_registration.register_and_commit,
    distributed_registration.find_held,
    distributed_locks,
)


def way(*, is_distributed: bool) -> Way:
    """Return the way of a setting."""
    return DISTRIBUTED if is_distributed else SINGLE


def current() -> Way:
    """Return the way of the app that runs now."""
    return way(is_distributed=db.engine.get_execution_options().get("distributed", False))
