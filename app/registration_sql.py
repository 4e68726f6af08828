"""The one statement of the hot path, compiled once from the models."""

import secrets
from typing import Any

from sqlalchemy import (
    ARRAY,
    BindParameter,
    ColumnElement,
    LargeBinary,
    Text,
    and_,
    any_,
    bindparam,
    collate,
    func,
    select,
)
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.dialects.postgresql.psycopg import dialect

from app.models import PushToken, UserSession, is_live

# The statement's parameters, each an array with one element a registration.
COLUMNS = {
    "token_hash": LargeBinary,
    "user_id": Text,
    "app_name": Text,
    "token": Text,
    "type": Text,
    "id": Text,
}

ID_ALPHABET = "23456789ABCDEFGHJKLMNPQRSTWXYZabcdefghijkmnopqrstuvwxyz"
ID_LENGTH = 17


def fresh_id() -> str:
    """Make an id like Meteor's Random.id(): 17 of 55 characters, 98 bits that nobody guesses."""
    number = secrets.randbelow(len(ID_ALPHABET) ** ID_LENGTH)
    characters = []
    for _ in range(ID_LENGTH):
        number, digit = divmod(number, len(ID_ALPHABET))
        characters.append(ID_ALPHABET[digit])
    return "".join(characters)


def _register() -> str:
    """Build the statement; it returns (place from 1, id, enabled, created_at, updated_at).

    Only places with a live session come back. Of several registrations of one push token the
    last one is written; all of them get its row.
    """
    arrays: list[BindParameter[Any]] = [
        bindparam(name, type_=ARRAY(type_)) for name, type_ in COLUMNS.items()
    ]
    asked = (
        func.unnest(*arrays)
        .table_valued(*COLUMNS, with_ordinality="place")
        .render_derived(name="asked")
    ).c
    # By an array, not by a join with `asked`: so the only way to the sessions is their index,
    # whatever was in the table when PostgreSQL planned. Whose they are is checked below.
    signed_in = (
        select(UserSession.token_hash, UserSession.user_id)
        .where(UserSession.token_hash == any_(arrays[0]), is_live())
        .order_by(UserSession.token_hash)
        # A logout waits for us, or we find its session gone: never an orphan, never an error.
        .with_for_update(read=True, key_share=True)
        .cte("signed_in")
    ).c
    is_signed_in = and_(
        signed_in.token_hash == asked.token_hash, signed_in.user_id == asked.user_id
    )
    key: list[ColumnElement[str]] = [collate(asked.app_name, "C"), collate(asked.token, "C")]
    latest = (
        select(
            asked.id,
            asked.app_name,
            asked.token,
            asked.type,
            asked.user_id,
            asked.token_hash,
            func.now(),
            func.now(),
        )
        .join_from(asked.id.table, signed_in.user_id.table, is_signed_in)
        .ext(distinct_on(*key))
        .order_by(*key, asked.place.desc())
    )
    row = upsert(PushToken).from_select(
        [
            PushToken.id,
            PushToken.app_name,
            PushToken.token,
            PushToken.type,
            PushToken.user_id,
            PushToken.session_hash,
            PushToken.created_at,
            PushToken.updated_at,
        ],
        latest,
    )
    changed = ("type", "user_id", "session_hash", "updated_at")
    written = (
        row.on_conflict_do_update(
            index_elements=[PushToken.app_name, PushToken.token],
            set_={name: row.excluded[name] for name in changed},
        )
        .returning(
            PushToken.app_name,
            PushToken.token,
            PushToken.id,
            PushToken.enabled,
            PushToken.created_at,
            PushToken.updated_at,
        )
        .cte("written")
    ).c
    answer = (
        select(asked.place, written.id, written.enabled, written.created_at, written.updated_at)
        .join_from(asked.id.table, signed_in.user_id.table, is_signed_in)
        .join(
            written.id.table,
            and_(written.app_name == asked.app_name, written.token == asked.token),
        )
    )
    return str(answer.compile(dialect=dialect()))  # type: ignore[no-untyped-call]


REGISTER = _register()

# The statement has one good plan, through the indexes, for one row and for a hundred. Left to
# itself PostgreSQL plans again for each lone registration (0.27 of 0.82 ms), and a plan made
# while the tables were empty would read them whole, or compare every row with every other.
PLAN = (
    "SET plan_cache_mode = force_generic_plan",
    "SET enable_seqscan = off",
    "SET enable_nestloop = off",
)
