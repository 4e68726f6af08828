"""Contract, 3 of 5: every row has a device's name and a known type.

Reads all of push_tokens under SHARE UPDATE EXCLUSIVE, which blocks no reads and no writes, without
a time limit.
"""

from collections.abc import Sequence

from migrations.operations import lock_table, without_statement_timeout

revision: str = "0012_device_id_checked"
down_revision: str | None = "0011_device_unique"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    """Check what is there."""
    lock_table("push_tokens")
    for name in ("ck_push_tokens_type", "ck_push_tokens_device_id_there"):
        without_statement_timeout(f"ALTER TABLE push_tokens VALIDATE CONSTRAINT {name}")


def downgrade() -> None:
    """Nothing to undo: rows that were checked harm no earlier release."""
