"""The commands of `flask`: what makes something prints one JSON line on stdout."""

import sys
from contextlib import ExitStack, closing
from dataclasses import asdict
from typing import Any

import click
from flask import Flask, current_app

from app import purge, service_keys, session_import, sessions
from app.commands import Commands, source
from app.hashes import hash_secret
from app.models import UserSession, db
from app.mongoexport import UnreadableError, entries
from app.push_tokens_cli import push_tokens_group
from app.schemas import MAX_USER_ID, is_storable, iso
from app.terminal import Meter, say

sessions_group = Commands("sessions", help="Who is signed in.")


class UserId(click.ParamType[str]):
    """A user id within the limits that the API has too."""

    name = "user_id"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Return the id, or fail with what is wrong."""
        if not value or not is_storable(value, MAX_USER_ID):
            self.fail(f"must have 1 to {MAX_USER_ID} bytes of UTF-8", param, ctx)
        return str(value)


@sessions_group.command("issue")
@click.argument("user_id", type=UserId())
@click.option("--days", type=click.IntRange(1, 36500), help="Life of the session, in days.")
def issue_session(user_id: str, days: int | None) -> None:
    """Sign USER_ID in, and print the auth token, which is shown only here."""
    days = days or current_app.config["SETTINGS"].session_days
    auth_token, expires_at = sessions.issue(user_id, days)
    db.session.commit()
    say(userId=user_id, authToken=auth_token, expiresAt=iso(expires_at))


@sessions_group.command("revoke")
@click.argument("user_id", type=UserId())
@click.option("--auth-token", type=click.Choice(["-"]), help="End one: read it from stdin.")
@click.option("--all", "every", is_flag=True, help="End all sessions of the user.")
def revoke_sessions(user_id: str, auth_token: str | None, every: bool) -> None:
    """Sign USER_ID out, and remove the push tokens registered in the sessions that end."""
    if every == bool(auth_token):
        raise click.UsageError("Say which: either --auth-token - or --all.")
    which = UserSession.user_id == user_id
    if auth_token:
        # Never an argument: the process list and the shell's history would keep it.
        secret = sys.stdin.buffer.readline().strip()
        which &= UserSession.token_hash == hash_secret(secret)
    ended, removed = sessions.end(which)
    db.session.commit()
    say(sessions=ended, tokens=removed)


@sessions_group.command("import")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
def import_sessions(file: str) -> None:
    """Take over the sessions in FILE (- is stdin): Rocket.Chat's users by mongoexport.

    They are services.resume.loginTokens; gzip is seen by itself. May be run again. Rows that are
    left out are named on stderr with their line. A session that was ended here since FILE was made
    comes back.
    """
    days = current_app.config["SETTINGS"].session_days
    done, problem = session_import.Summary(), None
    with ExitStack() as stack:
        export, size = stack.enter_context(source(file))
        documents = stack.enter_context(closing(entries(export)))
        meter = stack.enter_context(Meter("imported", size))
        try:
            for done in session_import.run(documents, days, _report):
                meter.at(export.tell() if size else 0, done.sessions)
        except UnreadableError as error:
            problem = f"{file}: {error}"
    say(**asdict(done))
    if done.read and not done.sessions:
        click.echo(
            "No session came of it. It should be Rocket.Chat's users with their field"
            " services.resume.loginTokens, as mongoexport prints them.",
            err=True,
        )
    if problem:
        raise click.ClickException(f"{problem}. What was read before is imported.")


def _report(line: int, reason: str) -> None:
    click.echo(f"line {line}: {reason}", err=True)


@sessions_group.command("purge")
def purge_sessions() -> None:
    """Remove expired sessions and what was registered in them.

    Works in short transactions beside the running service, and may be stopped and run again.
    """
    ended = removed = examined = 0
    with Meter("expired sessions") as meter:
        for looked_at, some_ended, some_removed in purge.expired_sessions():
            db.session.commit()
            examined += looked_at
            ended += some_ended
            removed += some_removed
            meter.at(examined, examined)
    say(sessions=ended, tokens=removed)


service_keys_group = Commands("service-keys", help="Which services may look up, report, announce.")


@service_keys_group.command("issue")
@click.argument("name", type=UserId())
@click.option(
    "--scope", "scopes", multiple=True, required=True, type=click.Choice(service_keys.SCOPES)
)
def issue_service_key(name: str, scopes: tuple[str, ...]) -> None:
    """Make a key for the service NAME and print it: it is shown only here.

    To replace one without downtime, issue the new one, have the service use it, and then
    `service-keys revoke NAME --keep-latest`.
    """
    key = service_keys.issue(name, scopes)
    db.session.commit()
    say(name=name, key=key, scopes=sorted(set(scopes)))


@service_keys_group.command("list")
def list_service_keys() -> None:
    """Print a line for each key; `keyId` begins its SHA-256, and is no way in."""
    for row in service_keys.all_keys():
        revoked_at = row["revoked_at"] and iso(row["revoked_at"])
        shown = {"name": row["name"], "scopes": row["scopes"], "keyId": row["key_id"]}
        say(**shown, createdAt=iso(row["created_at"]), revokedAt=revoked_at)


@service_keys_group.command("revoke")
@click.argument("name", type=UserId())
@click.option("--keep-latest", is_flag=True, help="Leave the key that was issued last.")
@click.option("--key-id", help="Revoke this one only; `list` shows it.")
def revoke_service_keys(name: str, keep_latest: bool, key_id: str | None) -> None:
    """Revoke the keys of the service NAME; they let nobody in from the next request on."""
    if keep_latest and key_id:
        raise click.UsageError("Say which: either --keep-latest or --key-id.")
    revoked = service_keys.revoke(name, keep_latest=keep_latest, key_id=key_id)
    db.session.commit()
    if not revoked:
        which = f" and the id {key_id!r}" if key_id else ""
        click.echo(f"No live key bears the name {name!r}{which}.", err=True)
    say(name=name, revoked=revoked)


def init_app(app: Flask) -> None:
    """Add the commands to `flask`."""
    app.cli.add_command(sessions_group)
    app.cli.add_command(service_keys_group)
    app.cli.add_command(push_tokens_group)
