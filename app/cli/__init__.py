"""The commands; one that makes something prints one JSON line on stdout.

`push-tokens` imports only what the command that was typed needs (main.py).
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask


def init_app(app: "Flask") -> None:
    """Add the commands to `flask`, which has groups where `push-tokens` has them on top."""
    from app.cli import doctor, migrate, push_tokens, service_keys, sessions  # noqa: PLC0415

    for command in (
        sessions.group,
        service_keys.group,
        push_tokens.group,
        doctor.doctor,
        migrate.migrate,
    ):
        app.cli.add_command(command)
