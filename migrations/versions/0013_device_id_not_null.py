"""Contract, 4 of 5: push_tokens.device_id is NOT NULL, and nothing fills it but the code.

ACCESS EXCLUSIVE on push_tokens for milliseconds: PostgreSQL takes the checked constraint for proof
and reads no row. After a downgrade it is unchecked, and checked here first as by revision 0012.
"""

from collections.abc import Sequence
from importlib import import_module

from alembic import op

from migrations.operations import lock_table, without_statement_timeout

revision: str = "0013_device_id_not_null"
down_revision: str | None = "0012_device_id_checked"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

EXPAND = import_module("migrations.versions.0008_device_id")


def upgrade() -> None:
    """Make of the constraint what the models say, and drop the triggers."""
    lock_table("push_tokens")
    without_statement_timeout(
        "ALTER TABLE push_tokens VALIDATE CONSTRAINT ck_push_tokens_device_id_there"
    )
    op.execute("ALTER TABLE push_tokens ALTER COLUMN device_id SET NOT NULL")
    op.execute("ALTER TABLE push_tokens DROP CONSTRAINT ck_push_tokens_device_id_there")
    op.execute("DROP TRIGGER fill_device_id_of_new ON push_tokens")
    op.execute("DROP TRIGGER fill_device_id ON push_tokens")
    op.execute("DROP FUNCTION push_tokens_fill_device_id()")


def downgrade() -> None:
    """Allow null again, but for what the constraint of revision 0010 says."""
    lock_table("push_tokens")
    op.execute(EXPAND.FUNCTION)
    for trigger in EXPAND.TRIGGERS:
        op.execute(trigger)
    op.execute(
        "ALTER TABLE push_tokens ADD CONSTRAINT ck_push_tokens_device_id_there"
        " CHECK (device_id IS NOT NULL) NOT VALID"
    )
    op.execute("ALTER TABLE push_tokens ALTER COLUMN device_id DROP NOT NULL")
