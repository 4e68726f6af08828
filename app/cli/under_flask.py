"""The commands under `flask`, each imported when it is used."""

from importlib import import_module

import click
from flask.cli import AppGroup

# By name: the module, and what it is called there.
MODULES = {
    "sessions": ("app.cli.sessions", "group"),
    "service-keys": ("app.cli.service_keys", "group"),
    "push-tokens": ("app.cli.push_tokens", "group"),
    "doctor": ("app.cli.doctor", "doctor"),
    "migrate": ("app.cli.migrate", "migrate"),
}


class UnderFlask(AppGroup):
    """The group whose commands `flask` adds to its own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names."""
        return [*super().list_commands(ctx), *MODULES]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import a command; None where there is none of this name."""
        if name not in MODULES:
            return super().get_command(ctx, name)
        module, place = MODULES[name]
        command: click.Command = getattr(import_module(module), place)
        return command
