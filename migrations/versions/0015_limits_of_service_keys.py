"""Expand: apps and an end of a service key, when each was last used, and who issued and revoked.

Two columns and two new tables; ACCESS EXCLUSIVE on service_keys for milliseconds. The previous
release serves on, and takes a key that is bound to apps for one that is not, and one at its end
for a live one: bind keys once it is gone. Run deploy/postgresql/roles.sql after it.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TIMESTAMP

revision: str = "0015_limits_of_service_keys"
down_revision: str | None = "0014_one_index_of_users"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# Sessions belong to no app, so a key that announces them cannot be bound to one.
BOUND = (
    "ALTER TABLE service_keys ADD CONSTRAINT ck_service_keys_app_names CHECK (app_names IS NULL"
    " OR (cardinality(app_names) > 0 AND NOT scopes @> ARRAY['sessions']))"
)


def _moment(name: str, comment: str, **options: object) -> sa.Column[object]:
    return sa.Column(name, TIMESTAMP(timezone=True, precision=3), comment=comment, **options)  # type: ignore[arg-type]


def upgrade() -> None:
    """Add the columns, and the tables."""
    app_names = "The apps whose registrations it may see and remove; null: all."
    op.add_column("service_keys", sa.Column("app_names", sa.ARRAY(sa.Text()), comment=app_names))
    op.add_column("service_keys", _moment("expires_at", "It is good until then; null: for ever."))
    op.execute(BOUND)
    op.create_table(
        "service_key_uses",
        sa.Column("key_hash", sa.LargeBinary(), nullable=False, comment="The key."),
        _moment("used_at", "When it was used, to about an hour.", nullable=False),
        sa.ForeignKeyConstraint(
            ["key_hash"],
            ["service_keys.key_hash"],
            name=op.f("fk_service_key_uses_key_hash_service_keys"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("key_hash", name=op.f("pk_service_key_uses")),
        comment="When service keys were last used; serving writes it.",
    )
    op.create_table(
        "service_key_events",
        sa.Column(
            "id",
            sa.BigInteger(),
            sa.Identity(always=True),
            nullable=False,
            comment="Rises with time.",
        ),
        _moment("happened_at", "When.", server_default=sa.func.now(), nullable=False),
        sa.Column(
            "role",
            sa.Text(collation="C"),
            server_default=sa.text("SESSION_USER"),
            nullable=False,
            comment="The role of the database that did it.",
        ),
        sa.Column("event", sa.Text(collation="C"), nullable=False, comment="issued or revoked."),
        sa.Column(
            "name", sa.Text(collation="C"), nullable=False, comment="The service whose key it is."
        ),
        sa.Column(
            "key_id",
            sa.Text(collation="C"),
            nullable=False,
            comment="The key: the first 8 hex digits of its hash.",
        ),
        sa.Column("scopes", sa.ARRAY(sa.Text()), nullable=False, comment="The calls it may make."),
        sa.Column("app_names", sa.ARRAY(sa.Text()), comment="The apps it is for; null: all."),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_service_key_events")),
        comment="Who issued and revoked which service key: rows are only added.",
    )


def downgrade() -> None:
    """Drop the tables and the columns; keys that had an end or were bound are revoked first."""
    op.execute(
        "UPDATE service_keys SET revoked_at = now()"
        " WHERE revoked_at IS NULL AND (app_names IS NOT NULL OR expires_at IS NOT NULL)"
    )
    op.drop_table("service_key_events")
    op.drop_table("service_key_uses")
    op.execute("ALTER TABLE service_keys DROP COLUMN expires_at, DROP COLUMN app_names")
