"""The commands on service keys."""

import click

from app.cli.commands import AppName, Commands, UserId
from app.cli.terminal import print_json
from app.limits import iso
from app.models import db
from app.registry import service_keys

group = Commands("service-keys", help="Keys of the services that look up, report or announce.")


@group.command("issue")
@click.argument("name", type=UserId())
@click.option(
    "--scope", "scopes", multiple=True, required=True, type=click.Choice(service_keys.SCOPES)
)
@click.option(
    "--app-name",
    "app_names",
    multiple=True,
    type=AppName(),
    help="Bind the key to this app, and others: all else is as if absent.",
)
@click.option("--days", type=click.IntRange(1, 36500), help="Life of the key; else it has no end.")
def issue_service_key(
    name: str, scopes: tuple[str, ...], app_names: tuple[str, ...], days: int | None
) -> None:
    """Make a key for the service NAME and print it; it is not shown again.

    To replace one without downtime, issue the new one, have the service use it, and then
    `service-keys revoke NAME --keep-latest`.
    """
    if app_names and service_keys.UNBINDABLE in scopes:
        raise click.UsageError("Sessions belong to no app: no --app-name with --scope sessions.")
    key = service_keys.issue(name, scopes, app_names=app_names, days=days)
    db.session.commit()
    limits = {"appNames": sorted(set(app_names))} if app_names else {}
    print_json(name=name, key=key, scopes=sorted(set(scopes)), **limits)


@group.command("list")
def list_service_keys() -> None:
    """Print a line for each key; `keyId` is the start of its SHA-256, not a secret."""
    for row in service_keys.all_keys():
        shown = {name: row[name] for name in ("name", "scopes")}
        shown |= {"appNames": row["app_names"], "keyId": row["key_id"]}
        moments = ("created_at", "expires_at", "used_at", "revoked_at")
        created, expires, used, revoked = (row[name] and iso(row[name]) for name in moments)
        print_json(
            **shown, createdAt=created, expiresAt=expires, lastUsedAt=used, revokedAt=revoked
        )


@group.command("history")
def show_history() -> None:
    """Print a line for each key that was issued or revoked: when, and by which database role."""
    for row in service_keys.events():
        print_json(
            at=iso(row["happened_at"]),
            role=row["role"],
            event=row["event"],
            name=row["name"],
            keyId=row["key_id"],
            scopes=row["scopes"],
            appNames=row["app_names"],
        )


@group.command("revoke")
@click.argument("name", type=UserId())
@click.option("--keep-latest", is_flag=True, help="Leave the key that was issued last.")
@click.option("--key-id", help="Revoke this one only; `list` shows it.")
def revoke_service_keys(name: str, keep_latest: bool, key_id: str | None) -> None:
    """Revoke the keys of the service NAME, from the next request on.

    Exit status 1: no live key bears the name, or none has the id.
    """
    if keep_latest and key_id is not None:
        raise click.UsageError("Say which: either --keep-latest or --key-id.")
    revoked = service_keys.revoke(name, keep_latest=keep_latest, key_id=key_id)
    db.session.commit()
    print_json(name=name, revoked=revoked)
    if not revoked and not (keep_latest and service_keys.has_live(name)):
        which = f" and the id {key_id!r}" if key_id is not None else ""
        raise click.ClickException(f"No live key bears the name {name!r}{which}.")
