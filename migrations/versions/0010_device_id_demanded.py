"""Contract, 1 of 5: no new row is without a device's name.

Run it once the previous release is gone. Refuses while rows have none: run `push-tokens backfill`
first. Reads push_tokens under ACCESS SHARE, which blocks no reads and no writes, then takes ACCESS
EXCLUSIVE for milliseconds. No such row can appear in between, because the trigger fills it.
"""

from collections.abc import Sequence

from alembic import op

from migrations.operations import lock_table, without_statement_timeout

revision: str = "0010_device_id_demanded"
down_revision: str | None = "0009_device_id_index"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

REFUSE_UNFILLED = """
DO $$ BEGIN
    IF EXISTS (SELECT 1 FROM push_tokens WHERE device_id IS NULL) THEN
        RAISE EXCEPTION 'push_tokens has rows without a device_id'
            USING HINT = 'run "push-tokens backfill" and migrate again.';
    END IF;
END $$
""".strip()


def upgrade() -> None:
    """Refuse while rows are not filled; then require it of every new row."""
    without_statement_timeout(REFUSE_UNFILLED)
    lock_table("push_tokens")
    op.execute(
        "ALTER TABLE push_tokens ADD CONSTRAINT ck_push_tokens_device_id_there"
        " CHECK (device_id IS NOT NULL) NOT VALID"
    )


def downgrade() -> None:
    """Demand it no more."""
    lock_table("push_tokens")
    op.execute("ALTER TABLE push_tokens DROP CONSTRAINT ck_push_tokens_device_id_there")
