"""The commands on one user: show what is known, remove registrations, erase everything."""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import click
import orjson
from flask.cli import with_appcontext
from sqlalchemy import RowMapping

from app.cli.commands import Identifier, UserId, source
from app.cli.terminal import print_json, printable
from app.limits import MAX_DEVICE_ID, iso
from app.models import db
from app.registry import users

SHOWN = 6  # characters at each end of a push token: enough to recognize it
HASH_SHOWN = 8  # hexadecimal digits of a session's hash
REFUSALS = 10


def shortened(push_token: str) -> str:
    """Return a push token's ends, as whoever has all of it may push to the device."""
    if len(push_token) <= 3 * SHOWN:
        return f"{push_token[: SHOWN // 2]}…"
    return f"{push_token[:SHOWN]}…{push_token[-SHOWN:]}"


def _device(row: RowMapping, sessions: Mapping[bytes, RowMapping]) -> dict[str, Any]:
    """Return a registration as it is printed."""
    session = sessions.get(row["session_hash"])
    return {
        "_id": row["device_id"],
        "appName": row["app_name"],
        "type": row["type"],
        "token": shortened(row["token"]),
        "environment": row["environment"],
        "createdAt": iso(row["created_at"]),
        "updatedAt": iso(row["updated_at"]),
        "session": row["session_hash"].hex()[:HASH_SHOWN],
        "reachable": _reachable(row, session),
    }


def _reachable(row: RowMapping, session: RowMapping | None) -> str:
    """Say whether senders find a registration, and if not, why."""
    if not row["enabled"]:
        return "no: disabled"
    if session is None:
        return "no: its session is gone"
    if session["is_reachable"]:
        return "yes"
    if session["can_sign_in"]:
        return "no: its session is over"
    return "no: imported, waits for the app"


def _session(row: RowMapping) -> dict[str, Any]:
    """Return a session as it is printed; `session` is the start of its hash, not a secret."""
    kind = "signed in" if row["can_sign_in"] else "imported"
    if row["expires_at"] is not None and not row["is_reachable"]:
        kind = "over"
    moments = {name: row[name] and iso(row[name]) for name in ("created_at", "expires_at")}
    return {
        "session": row["token_hash"].hex()[:HASH_SHOWN],
        "kind": kind,
        "createdAt": moments["created_at"],
        "expiresAt": moments["expires_at"],
        "confirmedAt": row["verified_at"] and iso(row["verified_at"]),
    }


def _devices(user_id: str, device_id: str | None = None) -> tuple[int, list[dict[str, Any]]]:
    number, rows = users.registrations(user_id, device_id)
    sessions = users.sessions_by_hash(list({row["session_hash"] for row in rows}))
    return number, [_device(row, sessions) for row in rows]


def _refusals(log: BinaryIO, user_id: str) -> Iterator[dict[str, Any]]:
    """Yield the lines of the service's log about requests of this user that were refused.

    Other lines, and what is not JSON, are passed over: the log may come from journald.
    """
    for text in log:
        try:
            line = orjson.loads(text)
        except orjson.JSONDecodeError:
            continue
        if not isinstance(line, dict) or not isinstance(line.get("status"), int):
            continue
        if line["status"] >= 400 and user_id in (line.get("user_id"), line.get("claimed_user_id")):
            yield line


@click.command("show")
@click.argument("user_id", type=UserId())
@click.option("--json", "as_json", is_flag=True, help="One JSON line instead of the text.")
@click.option(
    "--log",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="The service's log (- is stdin): show the user's last refused requests too.",
)
@with_appcontext
def show(user_id: str, as_json: bool, log: str | None) -> None:
    """Show the devices and sessions of USER_ID, and why senders do not find one.

    Push tokens are shortened. Exit status 1: nothing is known of the user.
    """
    number, devices = _devices(user_id)
    session_number, sessions = users.sessions_of(user_id)
    db.session.rollback()
    known = {
        "userId": user_id,
        "registrations": number,
        "devices": devices,
        "sessions": session_number,
        "latestSessions": [_session(row) for row in sessions],
    }
    if log:
        with source(log) as (file, _):
            known["refusals"] = list(deque(_refusals(file, user_id), REFUSALS))
    if as_json:
        print_json(**known)
    else:
        _print(known)
    if not (number or session_number or known.get("refusals")):
        raise click.ClickException(f"nothing is known of the user {user_id}")


def _print(known: dict[str, Any]) -> None:
    """Print what is known as lines, which wrap on a narrow terminal but are never cut."""
    lines = [_heading(known, "registrations", "devices")]
    for one in known["devices"]:
        lines.append(f"  {one['type']} {one['token']} of {one['appName']}, {one['environment']}")
        lines.append(f"      senders find it: {one['reachable']}")
        lines.append(f"      device {one['_id']}, in session {one['session']}")
        lines.append(f"      last seen {one['updatedAt']}, created {one['createdAt']}")
    lines.append(_heading(known, "sessions", "latestSessions"))
    for one in known["latestSessions"]:
        lines.append(f"  {one['session']} {one['kind']}, since {one['createdAt']}")
        ends = one["expiresAt"] or "never"
        confirmed = f", confirmed {one['confirmedAt']}" if one["confirmedAt"] else ""
        lines.append(f"      ends {ends}{confirmed}")
    if "refusals" in known:
        number = len(known["refusals"])
        which = f"the last {number} of the log" if number else "none in the log"
        lines.append(f"Refused requests: {which}")
        lines += [_refusal(line) for line in known["refusals"]]
    else:
        lines.append("Refused requests are in the service's log; --log FILE shows the user's.")
    for line in [f"User {known['userId']}", *lines]:
        click.echo(printable(line))


def _heading(known: dict[str, Any], what: str, shown: str) -> str:
    number, listed = known[what], len(known[shown])
    what = what.removesuffix("s") if number == 1 else what
    return f"{number:,} {what}" + (f", the {listed} latest of them" if listed < number else "")


def _refusal(line: Mapping[str, Any]) -> str:
    """Return a line of the log in short; who only claims to be the user may be somebody else."""
    shown = ("time", "status", "method", "route", "request_id", "error_type", "reason")
    claimed = " (not proven to be this user)" if line.get("claimed_user_id") else ""
    return "  " + " ".join(str(line[name]) for name in shown if line.get(name)) + claimed


class DeviceId(Identifier):
    """A device's name."""

    name = "id"
    max_bytes = MAX_DEVICE_ID


@click.command("remove")
@click.argument("user_id", type=UserId())
@click.option("--device", type=DeviceId(), metavar="ID", help="Only this one: its _id in `show`.")
@with_appcontext
def remove(user_id: str, device: str | None) -> None:
    """Remove the registrations of USER_ID and print what went; sessions stay.

    An app that is still signed in registers again at its next start. Exit status 1: there was
    none.
    """
    _, devices = _devices(user_id, device)
    removed = users.remove(user_id, device)
    db.session.commit()
    print_json(userId=user_id, tokens=removed, devices=devices)
    if not removed:
        which = f" for the device {device}" if device else ""
        raise click.ClickException(f"the user {user_id} has no registration{which}")


@click.command("erase")
@click.argument("user_id", type=UserId())
@with_appcontext
def erase(user_id: str) -> None:
    """Remove everything of USER_ID, sessions too, and print what went.

    Sign the user out at the identity provider first, or the next start of an app signs in again.
    The log and backups have the user's id until they are gone. Exit status 1: there was nothing.
    """
    _, devices = _devices(user_id)
    ended, removed = users.erase(user_id)
    db.session.commit()
    print_json(userId=user_id, sessions=ended, tokens=removed, devices=devices)
    if not (ended or removed):
        raise click.ClickException(f"nothing is known of the user {user_id}")


COMMANDS = (show, remove, erase)
