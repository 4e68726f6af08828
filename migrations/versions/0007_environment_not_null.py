"""Contract, 3 of 3: push_tokens.environment is NOT NULL.

ACCESS EXCLUSIVE on push_tokens for milliseconds: PostgreSQL relies on the validated constraint and
reads no row. After a downgrade the constraint is not validated, so it is validated here first, as
in revision 0006.
"""

from collections.abc import Sequence

from alembic import op

from migrations.operations import lock_table, without_statement_timeout

revision: str = "0007_environment_not_null"
down_revision: str | None = "0006_environment_checked"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    """Replace the constraint by NOT NULL, as in the models."""
    lock_table("push_tokens")
    without_statement_timeout(
        "ALTER TABLE push_tokens VALIDATE CONSTRAINT ck_push_tokens_environment_there"
    )
    op.execute("ALTER TABLE push_tokens ALTER COLUMN environment SET NOT NULL")
    op.execute("ALTER TABLE push_tokens DROP CONSTRAINT ck_push_tokens_environment_there")


def downgrade() -> None:
    """Drop NOT NULL, and add the constraint of revision 0005 in its place."""
    lock_table("push_tokens")
    op.execute(
        "ALTER TABLE push_tokens ADD CONSTRAINT ck_push_tokens_environment_there"
        " CHECK (environment IS NOT NULL) NOT VALID"
    )
    op.execute("ALTER TABLE push_tokens ALTER COLUMN environment DROP NOT NULL")
