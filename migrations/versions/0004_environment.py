"""Expand: push_tokens.environment, which of APNs' two gateways knows a push token.

ACCESS EXCLUSIVE on push_tokens for milliseconds; no row is read or written. Existing rows have
none (null) until `push-tokens backfill`. The previous release does not know the column; what
it registers gets the default.
"""

from collections.abc import Sequence

from alembic import op

from migrations.operations import lock_table

revision: str = "0004_environment"
down_revision: str | None = "0003_refresh_heavy_tables"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    """Add the column; its default is for new rows only."""
    lock_table("push_tokens")
    op.execute('ALTER TABLE push_tokens ADD COLUMN environment text COLLATE "C"')
    op.execute("ALTER TABLE push_tokens ALTER COLUMN environment SET DEFAULT 'production'")
    op.execute(
        "ALTER TABLE push_tokens ADD CONSTRAINT ck_push_tokens_environment"
        " CHECK (environment IN ('production', 'sandbox')) NOT VALID"
    )
    op.execute(
        "COMMENT ON COLUMN push_tokens.environment IS"
        " 'The push service''s environment that knows the token: production or sandbox.'"
    )


def downgrade() -> None:
    """Drop the column with its values."""
    lock_table("push_tokens")
    op.execute("ALTER TABLE push_tokens DROP COLUMN environment")
