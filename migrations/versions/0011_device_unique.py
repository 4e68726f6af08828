"""Contract, 2 of 5: a device has one registration, and one for calls (voip).

Reads all of push_tokens and removes all but the latest renewed registration of a device; only
those rows are locked. Then an index is built under SHARE UPDATE EXCLUSIVE, which blocks no reads
and no writes. Where both releases registered one device at once, each may have left a row. If a
device gets a second row just before the build, the revision fails; it merges anew when it is run
again.
"""

from collections.abc import Sequence

import sqlalchemy as sa

from migrations.operations import create_index, drop_index, without_statement_timeout

revision: str = "0011_device_unique"
down_revision: str | None = "0010_device_id_demanded"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

NAME = "uq_push_tokens_device"

# Locked in the order that every writer keeps; a row that was renewed meanwhile is not removed.
MERGE = """/* before tables spread */
WITH doubles AS (
    SELECT id, updated_at
    FROM (
        SELECT id, updated_at, row_number() OVER (
            PARTITION BY user_id, app_name, device_id, type = 'voip'
            ORDER BY updated_at DESC, id DESC
        ) AS place
        FROM push_tokens
    ) numbered
    WHERE place > 1
), locked AS (
    SELECT p.id
    FROM push_tokens p JOIN doubles d ON p.id = d.id AND p.updated_at = d.updated_at
    ORDER BY p.app_name, p.token
    FOR UPDATE OF p
)
DELETE FROM push_tokens WHERE id IN (SELECT id FROM locked)
""".strip()


def upgrade() -> None:
    """Merge doubles and build the index."""
    without_statement_timeout(MERGE)
    columns = ["user_id", "app_name", "device_id", sa.text("(type = 'voip')")]
    create_index(NAME, "push_tokens", columns, unique=True)


def downgrade() -> None:
    """Drop the index; what was merged stays merged."""
    drop_index(NAME, "push_tokens")
