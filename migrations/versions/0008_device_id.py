"""Expand, 1 of 2: push_tokens.device_id, the name of a device within a user and an app.

ACCESS EXCLUSIVE on push_tokens for milliseconds; no row is read or written. Existing rows have
none (null) until `push-tokens backfill`. In the previous release the row's id is the device's
name; a trigger copies it for the rows that it writes, so the backfill may run before the next
release serves. The check of `type` accepts `voip` from here on.
"""

from collections.abc import Sequence

from alembic import op

from migrations.operations import lock_table, without_statement_timeout

revision: str = "0008_device_id"
down_revision: str | None = "0007_environment_not_null"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# The previous release's import gives a row another id in place; ours never does.
FUNCTION = """
CREATE FUNCTION push_tokens_fill_device_id() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.device_id := NEW.id;
    RETURN NEW;
END $$
""".strip()
TRIGGERS = (
    "/* before tables spread */"
    " CREATE TRIGGER fill_device_id_of_new BEFORE INSERT ON push_tokens FOR EACH ROW"
    " WHEN (NEW.device_id IS NULL) EXECUTE FUNCTION push_tokens_fill_device_id()",
    "/* before tables spread */"
    " CREATE TRIGGER fill_device_id BEFORE UPDATE ON push_tokens FOR EACH ROW"
    " WHEN (NEW.device_id IS NULL OR (NEW.id <> OLD.id AND NEW.device_id = OLD.device_id))"
    " EXECUTE FUNCTION push_tokens_fill_device_id()",
)


def _admit(*types: str) -> None:
    """Replace the check of `type`; existing rows are not checked."""
    listed = ", ".join(f"'{type_}'" for type_ in types)
    op.execute(
        "ALTER TABLE push_tokens DROP CONSTRAINT ck_push_tokens_type,"
        f" ADD CONSTRAINT ck_push_tokens_type CHECK (type IN ({listed})) NOT VALID"
    )


def upgrade() -> None:
    """Add the column, and the triggers that fill it for the previous release."""
    lock_table("push_tokens")
    op.execute('ALTER TABLE push_tokens ADD COLUMN device_id text COLLATE "C"')
    op.execute(FUNCTION)
    for trigger in TRIGGERS:
        op.execute(trigger)
    _admit("apn", "gcm", "voip")
    op.execute(
        "COMMENT ON COLUMN push_tokens.device_id IS"
        " 'The device''s name within its user and app: given by the app, or made here.'"
    )
    op.execute(
        "COMMENT ON COLUMN push_tokens.id IS"
        " 'The row''s own id, internal: shown only as a cursor of the list.'"
    )
    op.execute(
        "COMMENT ON COLUMN push_tokens.type IS"
        " 'The push service: apn (Apple), voip (Apple, for calls) or gcm (Google).'"
    )


def downgrade() -> None:
    """Drop the column, and the registrations that the previous release does not know (voip)."""
    lock_table("push_tokens")
    without_statement_timeout("DELETE FROM push_tokens WHERE type = 'voip'")
    op.execute("DROP TRIGGER fill_device_id_of_new ON push_tokens")
    op.execute("DROP TRIGGER fill_device_id ON push_tokens")
    op.execute("DROP FUNCTION push_tokens_fill_device_id()")
    op.execute("ALTER TABLE push_tokens DROP COLUMN device_id")
    _admit("apn", "gcm")
    op.execute(
        "COMMENT ON COLUMN push_tokens.id IS 'The device''s id: made here, or named by the app.'"
    )
    op.execute(
        "COMMENT ON COLUMN push_tokens.type IS 'The push service: apn (Apple) or gcm (Google).'"
    )
