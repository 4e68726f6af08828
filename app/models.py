"""The tables, and nothing that uses them: this module imports nothing of ours."""

from datetime import datetime
from typing import Annotated, Any

from flask_sqlalchemy import SQLAlchemy
from flask_sqlalchemy.session import Session
from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    ColumnElement,
    Connection,
    Engine,
    ForeignKey,
    Identity,
    Index,
    Interval,
    LargeBinary,
    MetaData,
    Text,
    UniqueConstraint,
    and_,
    func,
    literal_column,
    or_,
    text,
    true,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# COLLATE "C" because these are opaque identifiers: they compare by bytes, in the same order on
# every server, and an operating system's new collation rules cannot corrupt their indexes.
Opaque = Annotated[str, mapped_column(Text(collation="C"))]
# Milliseconds, because that is what an answer shows: what an app reads is what is stored.
Timestamp = Annotated[datetime, mapped_column(TIMESTAMP(timezone=True, precision=3))]


class Base(DeclarativeBase):
    """Names every constraint, so that a migration can name it too."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


ENGINE = "engine"  # in a session's info: the engine to use instead of the primary's


class RoutedSession(Session):
    """A session that asks another engine, as long as its info has one."""

    def get_bind(self, *args: Any, **kwargs: Any) -> Engine | Connection:
        """Return the engine that a statement goes to."""
        return self.info.get(ENGINE) or super().get_bind(*args, **kwargs)


db = SQLAlchemy(model_class=Base, session_options={"class_": RoutedSession})


class UserSession(db.Model):  # type: ignore[name-defined,misc]  # made at run time
    """A sign-in: who has its auth token acts as this user until it ends."""

    __tablename__ = "user_sessions"
    __table_args__ = (
        Index(None, "user_id"),
        {"comment": "Who is signed in; a row's end takes its push tokens along."},
    )

    token_hash: Mapped[bytes] = mapped_column(
        LargeBinary, primary_key=True, comment="SHA-256 of the auth token; never the token."
    )
    user_id: Mapped[Opaque] = mapped_column(comment="Opaque id of a user who lives elsewhere.")
    created_at: Mapped[Timestamp] = mapped_column(
        server_default=func.now(), comment="When the session became known here."
    )
    expires_at: Mapped[Timestamp | None] = mapped_column(
        comment="The session is over from here on; null: it never expires."
    )
    verified_at: Mapped[Timestamp | None] = mapped_column(
        comment="When the identity provider last confirmed it; null: issued here."
    )
    can_sign_in: Mapped[bool] = mapped_column(
        server_default=true(),
        comment="False: only holds imported push tokens, nobody can sign in with it.",
    )


def is_live() -> ColumnElement[bool]:
    """Give the condition under which a session can sign in and is not over."""
    return and_(
        UserSession.can_sign_in,
        or_(UserSession.expires_at.is_(None), UserSession.expires_at > func.now()),
    )


def is_reachable() -> ColumnElement[bool]:
    """Give the condition under which senders find what a session registered.

    It is live, or it holds imported registrations until an end that is still to come.
    """
    return or_(
        and_(UserSession.can_sign_in, UserSession.expires_at.is_(None)),
        UserSession.expires_at > func.now(),
    )


def is_valid_session(max_age: int | None = None) -> ColumnElement[bool]:
    """Give the condition under which a session lets its user in.

    It is live, and where an identity provider confirmed it, that was within so many seconds; None
    leaves that aside. What was issued or announced here needs no confirmation.
    """
    if max_age is None:
        return is_live()
    since = func.now() - literal_column(f"INTERVAL '{max_age:d} seconds'", Interval)
    fresh = or_(UserSession.verified_at.is_(None), UserSession.verified_at > since)
    return and_(is_live(), fresh)


class PushToken(db.Model):  # type: ignore[name-defined,misc]  # made at run time
    """A registration: under this push token, this user's device is reached."""

    __tablename__ = "push_tokens"
    __table_args__ = (
        UniqueConstraint("app_name", "token"),
        CheckConstraint("type IN ('apn', 'gcm', 'voip')", name="type"),
        CheckConstraint("environment IN ('production', 'sandbox')", name="environment"),
        # A device has one registration, and one more for calls. All queries by user use it, too.
        Index(
            "uq_push_tokens_device",
            *("user_id", "app_name", "device_id", text("(type = 'voip')")),
            unique=True,
        ),
        Index(None, "session_hash"),
        # No index on updated_at: a refresh changes nothing else, and as long as no index
        # needs to know, PostgreSQL keeps it a heap-only (HOT) update.
        {"comment": "Push tokens by app, and the user and session they belong to."},
    )

    id: Mapped[Opaque] = mapped_column(
        primary_key=True, comment="The row's own id, internal: shown only as a cursor of the list."
    )
    app_name: Mapped[Opaque] = mapped_column(comment="The app's name, as the app gives it.")
    token: Mapped[Opaque] = mapped_column(
        comment="The push token; APNs hex in lower case, everything else as it came."
    )
    type: Mapped[Opaque] = mapped_column(
        comment="The push service: apn (Apple), voip (Apple, for calls) or gcm (Google)."
    )
    user_id: Mapped[Opaque] = mapped_column(comment="The user who signed in last on the device.")
    session_hash: Mapped[bytes] = mapped_column(
        ForeignKey(UserSession.token_hash, ondelete="CASCADE"),
        comment="The session that registered it last and whose end removes it.",
    )
    enabled: Mapped[bool] = mapped_column(
        server_default=true(), comment="Whether senders may use it."
    )
    created_at: Mapped[Timestamp] = mapped_column(
        server_default=func.now(), comment="When the device was first registered."
    )
    updated_at: Mapped[Timestamp] = mapped_column(
        server_default=func.now(), comment="When the device was last registered."
    )
    environment: Mapped[Opaque] = mapped_column(
        server_default="production",
        comment="The push service's environment that knows the token: production or sandbox.",
    )
    device_id: Mapped[Opaque] = mapped_column(
        comment="The device's name within its user and app: given by the app, or made here."
    )


class ServiceKey(db.Model):  # type: ignore[name-defined,misc]  # made at run time
    """API key of a service that sends; its scopes say which calls it may make."""

    __tablename__ = "service_keys"
    __table_args__ = (
        CheckConstraint("scopes <@ ARRAY['lookup', 'feedback', 'sessions']", name="scopes"),
        CheckConstraint(
            "app_names IS NULL"
            " OR (cardinality(app_names) > 0 AND NOT scopes @> ARRAY['sessions'])",
            name="app_names",
        ),
        {"comment": "Keys of the services that send or announce sessions."},
    )

    key_hash: Mapped[bytes] = mapped_column(
        LargeBinary, primary_key=True, comment="SHA-256 of the key; never the key."
    )
    name: Mapped[Opaque] = mapped_column(
        comment="Whose key it is; several live keys may bear one name while one replaces another."
    )
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text), comment="The calls it may make.")
    created_at: Mapped[Timestamp] = mapped_column(
        server_default=func.now(), comment="When the key was issued."
    )
    revoked_at: Mapped[Timestamp | None] = mapped_column(
        comment="When it was revoked; null: it is good."
    )
    app_names: Mapped[list[str] | None] = mapped_column(
        ARRAY(Text), comment="The apps whose registrations it may see and remove; null: all."
    )
    expires_at: Mapped[Timestamp | None] = mapped_column(
        comment="It is good until then; null: for ever."
    )


class ServiceKeyUse(db.Model):  # type: ignore[name-defined,misc]  # made at run time
    """When a key was last used; a table of its own, because the serving role may write it."""

    __tablename__ = "service_key_uses"
    __table_args__ = ({"comment": "When service keys were last used; serving writes it."},)

    key_hash: Mapped[bytes] = mapped_column(
        ForeignKey(ServiceKey.key_hash, ondelete="CASCADE"), primary_key=True, comment="The key."
    )
    used_at: Mapped[Timestamp] = mapped_column(comment="When it was used, to about an hour.")


class ServiceKeyEvent(db.Model):  # type: ignore[name-defined,misc]  # made at run time
    """Who issued or revoked a key; the database itself says which role and when."""

    __tablename__ = "service_key_events"
    __table_args__ = (
        {"comment": "Who issued and revoked which service key: rows are only added."},
    )

    id: Mapped[int] = mapped_column(
        BigInteger, Identity(always=True), primary_key=True, comment="Rises with time."
    )
    happened_at: Mapped[Timestamp] = mapped_column(server_default=func.now(), comment="When.")
    role: Mapped[Opaque] = mapped_column(
        server_default=text("SESSION_USER"), comment="The role of the database that did it."
    )
    event: Mapped[Opaque] = mapped_column(comment="issued or revoked.")
    name: Mapped[Opaque] = mapped_column(comment="The service whose key it is.")
    key_id: Mapped[Opaque] = mapped_column(comment="The key: the first 8 hex digits of its hash.")
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text), comment="The calls it may make.")
    app_names: Mapped[list[str] | None] = mapped_column(
        ARRAY(Text), comment="The apps it is for; null: all."
    )
