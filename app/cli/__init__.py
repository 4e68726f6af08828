"""The commands of `flask`; a command that makes something prints one JSON line on stdout."""

from flask import Flask

from app.cli import doctor, push_tokens, service_keys, sessions

COMMANDS = (sessions.group, service_keys.group, push_tokens.group, doctor.doctor)


def init_app(app: Flask) -> None:
    """Add the commands to `flask`."""
    for command in COMMANDS:
        app.cli.add_command(command)
