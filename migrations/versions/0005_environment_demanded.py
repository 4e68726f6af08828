"""Contract, 1 of 3: no new row is without an environment.

Refuses while rows have none: run `push-tokens backfill` first. Reads push_tokens under
ACCESS SHARE, which blocks no reads and no writes, then takes ACCESS EXCLUSIVE for milliseconds. No
such row can appear in between, because the column has a default and no release writes null.
"""

from collections.abc import Sequence

from alembic import op

from migrations.operations import lock_table, without_statement_timeout

revision: str = "0005_environment_demanded"
down_revision: str | None = "0004_environment"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

REFUSE_UNFILLED = """
DO $$ BEGIN
    IF EXISTS (SELECT 1 FROM push_tokens WHERE environment IS NULL) THEN
        RAISE EXCEPTION 'push_tokens has rows without an environment'
            USING HINT = 'run "push-tokens backfill" and migrate again.';
    END IF;
END $$
""".strip()


def upgrade() -> None:
    """Refuse while rows are not filled; then require it of every new row."""
    without_statement_timeout(REFUSE_UNFILLED)
    lock_table("push_tokens")
    op.execute(
        "ALTER TABLE push_tokens ADD CONSTRAINT ck_push_tokens_environment_there"
        " CHECK (environment IS NOT NULL) NOT VALID"
    )


def downgrade() -> None:
    """Drop the requirement."""
    lock_table("push_tokens")
    op.execute("ALTER TABLE push_tokens DROP CONSTRAINT ck_push_tokens_environment_there")
