"""Ends the sessions that Rocket.Chat's users no longer have, once their export is read to its end.

The official apps sign out over a socket that never passes here, and administrators deactivate and
delete users: an export of the users is what tells of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy.exc import DBAPIError

from app.database.failures import may_be_one_rows_fault, original
from app.database.retries import committed
from app.models import db
from app.registry import provided
from app.transfer.mongoexport import plain_id

USERS_AT_ONCE = 1000
SESSIONS_AT_ONCE = 100


def login_tokens_of(user: Mapping[str, Any]) -> Any:
    """Return `services.resume.loginTokens` of a user's document, None where it has none."""
    found: Any = user
    for name in ("services", "resume", "loginTokens"):
        found = found.get(name) if isinstance(found, dict) else None
    return found


class EndsNothingError(Exception):
    """The export cannot be trusted to say who is signed out; the message says why."""


class MissingSessions:
    """What the users of an export no longer have, collected while it is read, ended after that."""

    def __init__(self, exported_at: datetime, deadline: float, expect: int | None = None):
        """Collect for an export of that moment.

        With `expect`, users that are not in it have no session either, and so many must be in it.
        `deadline` is the seconds for which what lost a race is tried again.
        """
        self._deadline = deadline
        self._expect = expect
        # By the database's clock, so that no other clock that is ahead ends what is new.
        self._before = min(exported_at, self._committed(provided.current_time))
        self._users: set[str] = set()
        self._unsure: set[str] = set()  # in the file, but not to be read, or twice
        self._is_named = True  # every document's user could be read
        self._waiting: dict[str, set[bytes]] = {}
        self._missing: dict[bytes, str] = {}
        self._has_field = False
        self.ended, self.removed, self.locked = 0, 0, 0

    def see(
        self, document: Mapping[str, Any] | None, sessions: Sequence[Mapping[str, Any]] | None
    ) -> None:
        """Note a user's document and the sessions in it, None for what could not be read."""
        if document is None:
            self._is_named = False
            return
        user_id = plain_id(document.get("_id"))
        if not isinstance(user_id, str):
            return  # of no user that has a session here
        if sessions is None or user_id in self._users:
            self._unsure.add(user_id)
        self._users.add(user_id)
        self._has_field |= login_tokens_of(document) is not None
        self._waiting[user_id] = {one["token_hash"] for one in sessions or ()}
        if len(self._waiting) >= USERS_AT_ONCE:
            self._compare()

    def end(self) -> Iterator[int]:
        """End what is missing, in batches; yield the number so far after each.

        Call it when the export was read to its end. Raises EndsNothingError, before anything was
        ended, when it cannot be right.
        """
        if not self._has_field:  # not even an empty list: it is of other fields, or empty
            raise EndsNothingError("no user in it has services.resume.loginTokens")
        if self._expect is not None and len(self._users) < self._expect:
            raise EndsNothingError(f"it has {len(self._users)} users and not {self._expect}")
        if self._expect is not None and not self._is_named:
            raise EndsNothingError("not every line of it can be read, so users may be missing")
        self._compare()
        if self._expect is not None:
            self._compare_others()
        gone = sorted(one for one, user in self._missing.items() if user not in self._unsure)
        for start in range(0, len(gone), SESSIONS_AT_ONCE):
            self._end(gone[start : start + SESSIONS_AT_ONCE])
            yield self.ended

    def _compare(self) -> None:
        """Collect what those users have here and not in the export."""
        waiting, self._waiting = self._waiting, {}
        look = partial(provided.of_users, list(waiting), self._before)
        for token_hash, user_id in self._committed(look):
            if token_hash not in waiting[user_id]:
                self._missing[token_hash] = user_id

    def _compare_others(self) -> None:
        """Collect the sessions of users that are not in the export."""
        after: bytes | None = b""
        while after is not None:
            found, after = self._committed(partial(provided.page, after, self._before))
            self._missing |= {one: user for one, user in found if user not in self._users}

    def _end(self, token_hashes: list[bytes]) -> None:
        """End sessions; those that somebody holds locked stay, and are counted."""
        try:
            ended, removed = self._committed(partial(provided.end, token_hashes, self._before))
        except DBAPIError as error:
            db.session.rollback()
            if not may_be_one_rows_fault(original(error)):
                raise
            if len(token_hashes) == 1:
                self.locked += 1
                return
            for token_hash in token_hashes:
                self._end([token_hash])
        else:
            self.ended += ended
            self.removed += removed

    def _committed(self, verb: Any) -> Any:
        return committed(verb, self._deadline)
