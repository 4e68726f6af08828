"""Contract, 2 of 3: all rows have an environment, one of the two.

Reads push_tokens from end to end under SHARE UPDATE EXCLUSIVE: beside whoever reads and writes
rows, however long it takes.
"""

from collections.abc import Sequence

from migrations.operations import lock_table, without_statement_timeout

revision: str = "0006_environment_checked"
down_revision: str | None = "0005_environment_demanded"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    """Check what is there."""
    lock_table("push_tokens")
    for name in ("ck_push_tokens_environment", "ck_push_tokens_environment_there"):
        without_statement_timeout(f"ALTER TABLE push_tokens VALIDATE CONSTRAINT {name}")


def downgrade() -> None:
    """Nothing to undo: rows that were checked harm no earlier release."""
