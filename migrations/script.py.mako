"""${message}.

TODO, in this place: which locks each statement takes (PostgreSQL's manual, "Explicit
Locking"), on which table, and for how long; measured where rows are read or rewritten.

Rules, to be deleted when they are kept:
- It works beside the previous release of the code, which keeps serving during and after it. A
  column that this release writes is added nullable or with a constant default; what the previous
  one still uses is dropped by the next release (expand, backfill, contract).
- downgrade() undoes it, and loses nothing that existed before.
- It never reads or rewrites a large table while it is locked: a constraint is added NOT VALID and
  validated by a revision of its own, NOT NULL relies on such a check, an index is built by
  operations.create_index in a revision of its own, rows are filled by a command in batches.
- A statement that takes ACCESS EXCLUSIVE (ALTER, DROP) comes after operations.lock_table(table).
- It runs offline too, so it does not query the database. The tests run squawk on the SQL.
- Revisions are numbered, and the name has at most 32 characters: `make migration m=add_kind`.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from migrations import operations
${imports if imports else ""}
revision: str = ${repr(up_revision)}
down_revision: str | None = ${repr(down_revision)}
branch_labels: str | Sequence[str] | None = ${repr(branch_labels)}
depends_on: str | Sequence[str] | None = ${repr(depends_on)}


def upgrade() -> None:
    """${message}."""
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """Undo it."""
    ${downgrades if downgrades else "pass"}
