"""The commands on sessions."""

import os
from contextlib import ExitStack, closing
from dataclasses import asdict
from datetime import UTC, datetime

import click

from app import services
from app.cli.commands import Commands, Moment, UserId, source, standard_input
from app.cli.jobs import note_success
from app.cli.terminal import Meter, print_json, warn
from app.identifiers import hash_secret
from app.limits import iso
from app.models import UserSession, db
from app.registry import maintenance, sessions
from app.transfer import session_import
from app.transfer.mongoexport import UnreadableError, entries
from app.transfer.session_ends import EndsNothingError, MissingSessions

group = Commands("sessions", help="Sessions of users.")


@group.command("issue")
@click.argument("user_id", type=UserId())
@click.option("--days", type=click.IntRange(1, 36500), help="Life of the session, in days.")
def issue_session(user_id: str, days: int | None) -> None:
    """Make a session for USER_ID and print its auth token, which is not shown again."""
    days = days or services.current().settings.session_days
    auth_token, expires_at = sessions.issue(user_id, days)
    db.session.commit()
    print_json(userId=user_id, authToken=auth_token, expiresAt=iso(expires_at))


@group.command("revoke")
@click.argument("user_id", type=UserId())
@click.option("--auth-token", type=click.Choice(["-"]), help="End one: read it from stdin.")
@click.option("--all", "every", is_flag=True, help="End all sessions of the user.")
def revoke_sessions(user_id: str, auth_token: str | None, every: bool) -> None:
    """End sessions of USER_ID, and remove the registrations that were made in them.

    Exit status 1: there was none to end.
    """
    if every == bool(auth_token):
        raise click.UsageError("Say which: either --auth-token - or --all.")
    which = UserSession.user_id == user_id
    if auth_token:
        # Not an argument: the process list and the shell's history would show it.
        secret = standard_input().readline().strip()
        if not secret:
            raise click.UsageError("There is no auth token on stdin.")
        which &= UserSession.token_hash == hash_secret(secret)
    ended, removed = sessions.end(which)
    db.session.commit()
    print_json(sessions=ended, tokens=removed)
    if not ended:
        what = "session with this auth token" if auth_token else "session"
        raise click.ClickException(f"{user_id!r} has no {what}")


@group.command("import")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.option(
    "--end-missing",
    is_flag=True,
    help="Also end the sessions that users in FILE no longer have.",
)
@click.option(
    "--all-users",
    is_flag=True,
    help="With --end-missing and --expect: also those of users that are not in FILE.",
)
@click.option(
    "--expect",
    type=click.IntRange(1),
    metavar="N",
    help="End nothing unless FILE has so many users.",
)
@click.option(
    "--exported-at",
    type=Moment(),
    help="When the export began; what was confirmed since stays. FILE's time of change, if unset.",
)
def import_sessions(
    file: str, end_missing: bool, all_users: bool, expect: int | None, exported_at: datetime | None
) -> None:
    """Take over the sessions in FILE (- is stdin): Rocket.Chat's users by mongoexport.

    They are services.resume.loginTokens; gzip is detected. May be run again. Rows that are left
    out are named on stderr with their line. A session that was ended here since FILE was made is
    live again. Exit status 1: no session was taken, or not all was read.

    With --end-missing only sessions end that Rocket.Chat confirmed or an import brought, and none
    when FILE is empty or cut short, which is exit status 1.
    """
    if all_users != bool(expect) or ((all_users or exported_at) and not end_missing):
        raise click.UsageError(
            "--all-users and --expect go together, and they and --exported-at with --end-missing."
        )
    shared = services.current()
    days, deadline = shared.settings.session_days, shared.settings.request_deadline
    missing = None
    if end_missing:
        missing = MissingSessions(_moment_of(file, exported_at), deadline, expect)
    done, problem = _import(file, days, deadline, missing)
    if missing:
        print_json(**asdict(done), ended=missing.ended, tokens=missing.removed)
    else:
        print_json(**asdict(done))
    _fail_for(problem, missing, file)
    if not done.read:
        warn(f"{file}: there is nothing in it.")
    elif not done.sessions and not missing:
        raise click.ClickException(
            f"{file}: no session came of it. It should be Rocket.Chat's users with their field"
            " services.resume.loginTokens, as mongoexport prints them; `push-tokens import` takes"
            " push tokens."
        )
    note_success("sessions import")


def _import(
    file: str, days: int, deadline: float, missing: MissingSessions | None
) -> tuple[session_import.SessionSummary, str | None]:
    """Import what is in a file, and end what is missing; return the counts and what went wrong."""
    done, problem = session_import.SessionSummary(), None
    with ExitStack() as stack:
        export, size = stack.enter_context(source(file))
        documents = stack.enter_context(closing(entries(export)))
        meter = stack.enter_context(Meter("imported", size))
        try:
            for done in session_import.run(documents, days, deadline, _report, missing):
                meter.at(export.tell() if size else 0, done.sessions, done.rejected)
            if missing:
                for _ in missing.end():
                    meter.at(size, done.sessions, done.rejected)
        except UnreadableError as error:
            problem = f"{error}. What was read before is imported"
        except EndsNothingError as error:
            problem = str(error)
        meter.at(size, done.sessions, done.rejected)
    return done, problem


def _fail_for(problem: str | None, missing: MissingSessions | None, file: str) -> None:
    """Raise what is to be said of an import that did not do all it should."""
    if problem and missing:
        problem += "; no session was ended"
    if problem:
        raise click.ClickException(f"{file}: {problem}.")
    if missing and missing.locked:
        raise click.ClickException(
            f"{missing.locked} sessions were locked by others and not ended; run it again."
        )


def _moment_of(file: str, exported_at: datetime | None) -> datetime:
    """Return when an export was made; UsageError when that is not known."""
    if exported_at is None:
        if file == "-":
            raise click.UsageError("--end-missing needs --exported-at where FILE is stdin.")
        exported_at = datetime.fromtimestamp(os.stat(file).st_mtime, UTC)
    return exported_at


def _report(line: int, reason: str) -> None:
    warn(f"line {line}: {reason}")


@group.command("purge")
def purge_sessions() -> None:
    """Remove expired sessions and their registrations.

    Works in short transactions beside the running service, and may be stopped and run again.
    """
    ended = removed = examined = held = 0
    with Meter("expired sessions", unit="examined") as meter:
        for step in maintenance.expired_sessions():
            db.session.commit()
            examined += step.examined
            ended += step.sessions
            removed += step.registrations
            held = step.held
            meter.at(examined, examined)
    if held:
        warn(f"{held:,} expired sessions are locked; the next run ends them.")
    print_json(sessions=ended, tokens=removed)
    note_success("sessions purge")
