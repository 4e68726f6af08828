"""Expand, 2 of 2: an index by which the next release finds a device.

SHARE UPDATE EXCLUSIVE on push_tokens for as long as the build takes; it blocks no reads and no
writes. The index is not unique yet: the previous release still writes, and would fail.
"""

from collections.abc import Sequence

from migrations.operations import create_index, drop_index

revision: str = "0009_device_id_index"
down_revision: str | None = "0008_device_id"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

NAME = "ix_push_tokens_user_id_app_name_device_id"


def upgrade() -> None:
    """Build the index."""
    create_index(NAME, "push_tokens", ["user_id", "app_name", "device_id"])


def downgrade() -> None:
    """Drop the index."""
    drop_index(NAME, "push_tokens")
