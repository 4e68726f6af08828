"""The commands under `flask`, each imported when it is used."""

import click
from flask.cli import AppGroup

from app.cli.main import COMMANDS, imported

# By name: the module, and what it is called there.
MODULES = {name: COMMANDS[name][:2] for name in ("sessions", "service-keys", "doctor", "migrate")}
MODULES["push-tokens"] = ("app.cli.push_tokens", "group")


class UnderFlask(AppGroup):
    """The group whose commands `flask` adds to its own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names."""
        return [*super().list_commands(ctx), *MODULES]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import a command; None where there is none of this name."""
        if name not in MODULES:
            return super().get_command(ctx, name)
        return imported(*MODULES[name])
