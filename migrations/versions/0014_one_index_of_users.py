"""Contract, 5 of 5: drop two indexes; the unique index of devices begins with the user too.

SHARE UPDATE EXCLUSIVE on push_tokens, which blocks no reads and no writes. A downgrade builds both
again under the same lock.
"""

from collections.abc import Sequence

from migrations.operations import create_index, drop_index

revision: str = "0014_one_index_of_users"
down_revision: str | None = "0013_device_id_not_null"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

INDEXES = {
    "ix_push_tokens_user_id": ["user_id"],
    "ix_push_tokens_user_id_app_name_device_id": ["user_id", "app_name", "device_id"],
}


def upgrade() -> None:
    """Drop the two."""
    for name in INDEXES:
        drop_index(name, "push_tokens")


def downgrade() -> None:
    """Build them again."""
    for name, columns in INDEXES.items():
        create_index(name, "push_tokens", columns)
