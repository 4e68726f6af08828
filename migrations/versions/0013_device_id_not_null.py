"""Contract, 4 of 5: push_tokens.device_id is NOT NULL, and the triggers are gone.

ACCESS EXCLUSIVE on push_tokens for milliseconds: PostgreSQL relies on the validated constraint and
reads no row. After a downgrade the constraint is not validated, so it is validated here first, as
in revision 0012.
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
    """Replace the constraint by NOT NULL, as in the models, and drop the triggers."""
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
    """Drop NOT NULL, and add the constraint of revision 0010 and the triggers in its place."""
    lock_table("push_tokens")
    op.execute(EXPAND.FUNCTION)
    for trigger in EXPAND.TRIGGERS:
        op.execute(trigger)
    op.execute(
        "ALTER TABLE push_tokens ADD CONSTRAINT ck_push_tokens_device_id_there"
        " CHECK (device_id IS NOT NULL) NOT VALID"
    )
    op.execute("ALTER TABLE push_tokens ALTER COLUMN device_id DROP NOT NULL")
