"""Contract, 2 of 3: every row has one of the two environments.

Reads all of push_tokens under SHARE UPDATE EXCLUSIVE, which blocks no reads and no writes, without
a time limit.
"""

from collections.abc import Sequence

from migrations.operations import lock_table, without_statement_timeout

revision: str = "0006_environment_checked"
down_revision: str | None = "0005_environment_demanded"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    """Validate the constraints on existing rows."""
    lock_table("push_tokens")
    for name in ("ck_push_tokens_environment", "ck_push_tokens_environment_there"):
        without_statement_timeout(f"ALTER TABLE push_tokens VALIDATE CONSTRAINT {name}")


def downgrade() -> None:
    """Do nothing: an earlier release works with validated constraints."""
