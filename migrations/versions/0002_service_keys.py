"""The table of service keys.

A new table only: no lock that blocks other transactions.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TIMESTAMP

revision: str = "0002_service_keys"
down_revision: str | None = "0001_sessions_and_push_tokens"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "service_keys",
        sa.Column(
            "key_hash",
            sa.LargeBinary(),
            nullable=False,
            comment="SHA-256 of the key; never the key.",
        ),
        sa.Column(
            "name",
            sa.Text(collation="C"),
            nullable=False,
            comment="Whose key it is; several live keys may bear one name while one replaces "
            "another.",
        ),
        sa.Column("scopes", sa.ARRAY(sa.Text()), nullable=False, comment="The calls it may make."),
        sa.Column(
            "created_at",
            TIMESTAMP(timezone=True, precision=3),
            server_default=sa.func.now(),
            nullable=False,
            comment="When the key was issued.",
        ),
        sa.Column(
            "revoked_at",
            TIMESTAMP(timezone=True, precision=3),
            comment="When it was revoked; null: it is good.",
        ),
        sa.CheckConstraint(
            "scopes <@ ARRAY['lookup', 'feedback', 'sessions']",
            name=op.f("ck_service_keys_scopes"),
        ),
        sa.PrimaryKeyConstraint("key_hash", name=op.f("pk_service_keys")),
        comment="Keys of the services that send or announce sessions.",
    )


def downgrade() -> None:
    """Drop the table and the keys."""
    op.drop_table("service_keys")
