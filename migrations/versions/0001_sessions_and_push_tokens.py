"""The tables of sessions and push tokens.

New tables only: no lock that blocks other transactions.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TIMESTAMP

revision: str = "0001_sessions_and_push_tokens"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def _opaque() -> sa.Text:
    return sa.Text(collation="C")


def _timestamp() -> TIMESTAMP:
    return TIMESTAMP(timezone=True, precision=3)


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "user_sessions",
        sa.Column(
            "token_hash",
            sa.LargeBinary(),
            nullable=False,
            comment="SHA-256 of the auth token; never the token.",
        ),
        sa.Column(
            "user_id",
            _opaque(),
            nullable=False,
            comment="Opaque id of a user who lives elsewhere.",
        ),
        sa.Column(
            "created_at",
            _timestamp(),
            server_default=sa.func.now(),
            nullable=False,
            comment="When the session became known here.",
        ),
        sa.Column(
            "expires_at",
            _timestamp(),
            comment="The session is over from here on; null: it never expires.",
        ),
        sa.Column(
            "verified_at",
            _timestamp(),
            comment="When the identity provider last confirmed it; null: issued here.",
        ),
        sa.Column(
            "can_sign_in",
            sa.Boolean(),
            server_default=sa.true(),
            nullable=False,
            comment="False: only holds imported push tokens, nobody can sign in with it.",
        ),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_user_sessions")),
        comment="Who is signed in; a row's end takes its push tokens along.",
    )
    op.create_index(op.f("ix_user_sessions_user_id"), "user_sessions", ["user_id"])
    op.create_table(
        "push_tokens",
        sa.Column(
            "id",
            _opaque(),
            nullable=False,
            comment="The device's id: made here, or named by the app.",
        ),
        sa.Column(
            "app_name",
            _opaque(),
            nullable=False,
            comment="The app's name, as the app gives it.",
        ),
        sa.Column(
            "token",
            _opaque(),
            nullable=False,
            comment="The push token; APNs hex in lower case, everything else as it came.",
        ),
        sa.Column(
            "type",
            _opaque(),
            nullable=False,
            comment="The push service: apn (Apple) or gcm (Google).",
        ),
        sa.Column(
            "user_id",
            _opaque(),
            nullable=False,
            comment="The user who signed in last on the device.",
        ),
        sa.Column(
            "session_hash",
            sa.LargeBinary(),
            nullable=False,
            comment="The session that registered it last and whose end removes it.",
        ),
        sa.Column(
            "enabled",
            sa.Boolean(),
            server_default=sa.true(),
            nullable=False,
            comment="Whether senders may use it.",
        ),
        sa.Column(
            "created_at",
            _timestamp(),
            server_default=sa.func.now(),
            nullable=False,
            comment="When the device was first registered.",
        ),
        sa.Column(
            "updated_at",
            _timestamp(),
            server_default=sa.func.now(),
            nullable=False,
            comment="When the device was last registered.",
        ),
        sa.CheckConstraint("type IN ('apn', 'gcm')", name=op.f("ck_push_tokens_type")),
        sa.ForeignKeyConstraint(
            ["session_hash"],
            ["user_sessions.token_hash"],
            name=op.f("fk_push_tokens_session_hash_user_sessions"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_push_tokens")),
        sa.UniqueConstraint("app_name", "token", name=op.f("uq_push_tokens_app_name_token")),
        comment="Push tokens by app, and the user and session they belong to.",
    )
    op.create_index(op.f("ix_push_tokens_session_hash"), "push_tokens", ["session_hash"])
    op.create_index(op.f("ix_push_tokens_user_id"), "push_tokens", ["user_id"])


def downgrade() -> None:
    """Drop the tables and what they hold."""
    op.drop_table("push_tokens")
    op.drop_table("user_sessions")
