"""Import of the sessions in Rocket.Chat's users, as mongoexport prints them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from app.database.retries import committed
from app.identifiers import parse_hash
from app.limits import MAX_USER_ID, is_text
from app.models import db
from app.registry import sessions
from app.transfer.mongoexport import Entry, parse_date, plain_id
from app.transfer.session_ends import MissingSessions, login_tokens_of

BATCH = 1000  # sessions in one transaction


def sessions_of(user: Mapping[str, Any], days: int) -> Iterator[dict[str, Any]]:
    """Yield the sessions of a user's document; ValueError with the problem for a wrong one.

    They are `services.resume.loginTokens` of `{when, hashedToken, type?}`. A login lives `days`
    days from `when`; one without `when` never ends, nor does a personal access token. A user who
    was deactivated has none, as old versions of Rocket.Chat left them in the document.
    """
    user_id = plain_id(user.get("_id"))
    if not is_text(user_id, MAX_USER_ID):
        raise ValueError(f"_id: must be a string of 1 to {MAX_USER_ID} bytes of UTF-8")
    login_tokens = login_tokens_of(user)
    if login_tokens is None or user.get("active") is False:
        return  # never signed in, or signed out everywhere
    if not isinstance(login_tokens, list):
        raise ValueError("services.resume.loginTokens: must be a list")
    for place, entry in enumerate(login_tokens):
        try:
            yield {"user_id": user_id, **_session(entry, days)}
        except ValueError as error:
            raise ValueError(f"services.resume.loginTokens.{place}: {error}") from None


@dataclass
class SessionSummary:
    """Counts of users' documents and of their sessions."""

    read: int = 0
    sessions: int = 0
    rejected: int = 0  # documents, and sessions that are known for another user


def run(
    entries: Iterable[Entry],
    days: int,
    deadline: float,
    reject: Callable[[int, str], None],
    missing: MissingSessions | None = None,
) -> Iterator[SessionSummary]:
    """Import sessions in committed batches; yield the summary at first and after each.

    It is one object, which counts on, also while reading fails.

    `deadline` is the seconds for which a batch that lost a race is tried again. `reject` is called
    with the line and the reason of what is left out: a whole document where it is wrong, one
    session where it is another user's. When reading fails, what was read before is imported too.
    `missing` is shown each document.
    """
    done = SessionSummary()
    yield done
    batch: list[tuple[int, dict[str, Any]]] = []
    try:
        for entry in entries:
            done.read += 1
            found = None
            try:
                if entry.document is None:
                    raise ValueError(entry.problem)
                found = list(sessions_of(entry.document, days))
                batch += [(entry.line, one) for one in found]
            except ValueError as error:
                done.rejected += 1
                reject(entry.line, str(error))
            if missing:
                missing.see(entry.document, found)
            while len(batch) >= BATCH:  # one user may have more
                full, batch = batch[:BATCH], batch[BATCH:]
                _put(full, days, deadline, reject, done)
                yield done
    finally:
        _put(batch, days, deadline, reject, done)
    yield done


def _put(
    batch: list[tuple[int, dict[str, Any]]],
    days: int,
    deadline: float,
    reject: Callable[[int, str], None],
    done: SessionSummary,
) -> None:
    """Store a batch without the sessions of other users, and count both."""
    while batch:
        announced = [one for _, one in batch]
        try:
            committed(partial(sessions.put, announced, days, confirmed=True), deadline)
        except sessions.ForeignHashError as foreign:
            db.session.rollback()
            for place in foreign.places:
                line, one = batch[place]
                done.rejected += 1
                reject(line, f"hashedToken: known for another user than {one['user_id']}")
            batch = [one for place, one in enumerate(batch) if place not in foreign.places]
        else:
            break
    done.sessions += len(batch)


def _session(entry: Any, days: int) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise ValueError("must be an object")
    ends: datetime | None = None
    if entry.get("type") != "personalAccessToken" and entry.get("when") is not None:
        ends = parse_date(entry["when"]) + timedelta(days=days)
    return {"token_hash": parse_hash(entry.get("hashedToken")), "expires_at": ends}
