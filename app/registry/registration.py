"""The statement of the hot path, for one and for many, compiled once from the models."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

from sqlalchemy import (
    ARRAY,
    BindParameter,
    ColumnElement,
    LargeBinary,
    ScalarSelect,
    Text,
    any_,
    bindparam,
    collate,
    func,
    inspect,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.dialects.postgresql.psycopg import dialect
from sqlalchemy.orm import aliased

from app.limits import PRODUCTION
from app.models import PushToken, UserSession, is_valid_session


class Registration(NamedTuple):
    """What an app asks for, validated; the credentials are not checked yet."""

    token_hash: bytes
    user_id: str
    app_name: str
    token: str
    type: str
    environment: str = PRODUCTION


class Registrar(Protocol):
    """What stores registrations of one process, committed."""

    @property
    def max_age(self) -> int | None:
        """The seconds of `models.is_valid_session`."""

    def register(self, registration: Registration) -> Mapping[Any, Any] | None:
        """Store a registration durably and return its row, or None without a valid session."""

    def close(self) -> None:
        """Close the connection."""


# The statement's parameters.
COLUMNS = {
    "token_hash": LargeBinary,
    "user_id": Text,
    "app_name": Text,
    "token": Text,
    "type": Text,
    "environment": Text,
    "id": Text,
}


def _user_before() -> ScalarSelect[str]:
    """Ask whose the row was, null for a new one: the statement's snapshot is from before it.

    Only metrics want it, and it costs PostgreSQL 5 % of a registration.
    """
    before = aliased(PushToken, name="before")
    written = literal_column(str(inspect(PushToken).c.id), Text)  # the row that is returned
    return select(before.user_id).where(before.id == written).scalar_subquery()


def _upsert(asked: Any, is_named: ColumnElement[bool], max_age: int | None) -> str:
    """Build the statement that writes what was asked with live sessions, which `is_named` finds.

    By the hash alone: so the only way to the sessions is their primary key, whatever was in the
    table when PostgreSQL planned. Whose a session is, is checked afterwards.
    """
    signed_in = (
        select(UserSession.token_hash, UserSession.user_id)
        .where(is_named, is_valid_session(max_age))
        .order_by(UserSession.token_hash)
        # A logout waits for us, or we find its session gone: never an orphan, never an error.
        .with_for_update(read=True, key_share=True)
        .cte("signed_in")
    ).c
    values = {
        PushToken.id: asked.id,
        PushToken.app_name: asked.app_name,
        PushToken.token: asked.token,
        PushToken.type: asked.type,
        PushToken.environment: asked.environment,
        PushToken.user_id: signed_in.user_id,
        PushToken.session_hash: signed_in.token_hash,
        PushToken.created_at: func.now(),
        PushToken.updated_at: func.now(),
    }
    rows = (
        select(*values.values())
        .where(signed_in.token_hash == asked.token_hash, signed_in.user_id == asked.user_id)
        .order_by(collate(asked.app_name, "C"), collate(asked.token, "C"))
    )
    row = upsert(PushToken).from_select(list(values), rows)
    changed = ("type", "environment", "user_id", "session_hash", "updated_at")
    statement = row.on_conflict_do_update(
        index_elements=[PushToken.app_name, PushToken.token],
        set_={name: row.excluded[name] for name in changed},
    ).returning(
        PushToken.app_name,
        PushToken.token,
        PushToken.id,
        PushToken.enabled,
        PushToken.created_at,
        PushToken.updated_at,
        _user_before(),
    )
    return str(statement.compile(dialect=dialect()))  # type: ignore[no-untyped-call]


def _register_one(max_age: int | None) -> str:
    """Build the statement for a lone registration, each parameter a value."""
    values: dict[str, BindParameter[Any]] = {
        name: bindparam(name, type_=kind) for name, kind in COLUMNS.items()
    }
    asked = SimpleNamespace(**values)
    return _upsert(asked, UserSession.token_hash == asked.token_hash, max_age)


def _register_many(max_age: int | None) -> str:
    """Build the statement for a group, each parameter an array; no push token comes twice."""
    arrays: list[BindParameter[Any]] = [
        bindparam(name, type_=ARRAY(kind)) for name, kind in COLUMNS.items()
    ]
    asked = func.unnest(*arrays).table_valued(*COLUMNS).render_derived(name="asked").c
    return _upsert(asked, UserSession.token_hash == any_(arrays[0]), max_age)


# Both return (app_name, token, id, enabled, created_at, updated_at, user before) of what has a
# live session.
# A lone registration would wait a fifth longer for the statement that is made for many.
REGISTER_ONE = _register_one(None)
REGISTER_MANY = _register_many(None)
LOCAL = (REGISTER_ONE, REGISTER_MANY)


def confirmed_within(seconds: int) -> tuple[str, str]:
    """Build both for sessions that the identity provider confirmed max_age so many seconds."""
    return _register_one(seconds), _register_many(seconds)


def register(
    rows: Sequence[tuple[Any, ...]], statements: tuple[str, str] = LOCAL
) -> tuple[str, dict[str, Any]]:
    """Give the statement and its parameters for registrations, in the order of COLUMNS."""
    one, many = statements
    if len(rows) == 1:
        return one, dict(zip(COLUMNS, rows[0], strict=True))
    columns = map(list, zip(*rows, strict=True))
    return many, dict(zip(COLUMNS, columns, strict=True))


# The statements have one good plan, through the indexes, for one row and for a hundred. Left to
# itself PostgreSQL plans again for each lone registration (0.27 of 0.82 ms), and a plan made
# while the tables were empty would read them whole, or compare every row with every other.
# Up to PostgreSQL 17 switched off means dear, and what is dear is compiled (JIT) each time.
PLAN = (
    "SET jit = off",
    "SET plan_cache_mode = force_generic_plan",
    "SET enable_seqscan = off",
    "SET enable_nestloop = off",
)
