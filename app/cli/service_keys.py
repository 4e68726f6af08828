"""The commands on service keys."""

import click

from app.cli.commands import Commands, UserId
from app.cli.terminal import print_json, warn
from app.limits import iso
from app.models import db
from app.registry import service_keys

group = Commands("service-keys", help="Keys of the services that look up, report or announce.")


@group.command("issue")
@click.argument("name", type=UserId())
@click.option(
    "--scope", "scopes", multiple=True, required=True, type=click.Choice(service_keys.SCOPES)
)
def issue_service_key(name: str, scopes: tuple[str, ...]) -> None:
    """Make a key for the service NAME and print it; it is not shown again.

    To replace one without downtime, issue the new one, have the service use it, and then
    `service-keys revoke NAME --keep-latest`.
    """
    key = service_keys.issue(name, scopes)
    db.session.commit()
    print_json(name=name, key=key, scopes=sorted(set(scopes)))


@group.command("list")
def list_service_keys() -> None:
    """Print a line for each key; `keyId` is the start of its SHA-256, not a secret."""
    for row in service_keys.all_keys():
        revoked_at = row["revoked_at"] and iso(row["revoked_at"])
        shown = {"name": row["name"], "scopes": row["scopes"], "keyId": row["key_id"]}
        print_json(**shown, createdAt=iso(row["created_at"]), revokedAt=revoked_at)


@group.command("revoke")
@click.argument("name", type=UserId())
@click.option("--keep-latest", is_flag=True, help="Leave the key that was issued last.")
@click.option("--key-id", help="Revoke this one only; `list` shows it.")
def revoke_service_keys(name: str, keep_latest: bool, key_id: str | None) -> None:
    """Revoke the keys of the service NAME, from the next request on."""
    if keep_latest and key_id:
        raise click.UsageError("Say which: either --keep-latest or --key-id.")
    revoked = service_keys.revoke(name, keep_latest=keep_latest, key_id=key_id)
    db.session.commit()
    if not revoked:
        which = f" and the id {key_id!r}" if key_id else ""
        warn(f"No live key bears the name {name!r}{which}.")
    print_json(name=name, revoked=revoked)
