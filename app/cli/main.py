"""`push-tokens`: the product's command. `--help` loads none of what the commands need."""

import sys
from importlib import import_module
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from app.version import VERSION

if TYPE_CHECKING:
    from flask import Flask

# By name: the module, what it is called there (within a group: `group/command`), and the first
# line of its help, so that nothing is loaded to list it.
COMMANDS = {
    "migrate": ("app.cli.migrate", "migrate", "Migrate the database to what this release needs."),
    "doctor": ("app.cli.doctor", "doctor", "Check what the service needs, and say what to do."),
    "import": ("app.cli.push_tokens", "group/import", "Merge FILE into the registrations."),
    "export": ("app.cli.push_tokens", "group/export", "Print every registration."),
    "purge": ("app.cli.push_tokens", "group/purge", "Remove what was not renewed."),
    "sweep": ("app.cli.push_tokens", "group/sweep", "Remove what races left (Citus only)."),
    "backfill": ("app.cli.push_tokens", "group/backfill", "Fill what a migration added."),
    "stats": ("app.cli.push_tokens", "group/stats", "Count the registrations."),
    "show": ("app.cli.users", "show", "Show the devices and sessions of a user."),
    "remove": ("app.cli.users", "remove", "Remove the registrations of a user or a device."),
    "erase": ("app.cli.users", "erase", "Remove everything of a user."),
    "sessions": ("app.cli.sessions", "group", "Issue, end, import and purge sessions."),
    "service-keys": ("app.cli.service_keys", "group", "Keys of the services that call."),
}


def _load() -> "Flask":
    from wsgi import app  # noqa: PLC0415 (not for `--help`)

    return app


def imported(module: str, place: str) -> click.Command:
    """Import a command, by what COMMANDS says of it."""
    group, _, within = place.partition("/")
    found = getattr(import_module(module), group)
    command: click.Command = found.commands[within] if within else found
    return command


class LazyCommands(click.Group):
    """The commands of COMMANDS, each imported when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import a command; None where there is none of this name."""
        if name not in COMMANDS:
            return None
        module, place, _ = COMMANDS[name]
        return imported(module, place)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, _, words) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Offer the commands without importing them, to whoever presses the key."""
        offered = [
            CompletionItem(name, help=words)
            for name, (_, _, words) in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return offered + click.Command.shell_complete(self, ctx, incomplete)

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command line; one line and exit status 1 where its help cannot be written."""
        try:
            return super().main(*args, **options)
        except OSError as error:  # before `invoke`, as on a full disk
            from app.cli.terminal import warn  # noqa: PLC0415 (not for `--help`)

            warn(f"Error: {error.strerror}")
            sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what it needs of Flask is made when it asks for it.

        Exit status 1 and one line when the database or the system fails.
        """
        from flask.cli import ScriptInfo  # noqa: PLC0415 (not for `--help`)

        from app.cli.commands import in_one_line  # noqa: PLC0415 (not for `--help`)

        ctx.obj = ScriptInfo(create_app=_load)
        if isinstance(sys.stdout, TextIOWrapper):  # a terminal that is not UTF-8 shows ? for it
            sys.stdout.reconfigure(errors="replace")
        with in_one_line():
            return super().invoke(ctx)


@click.group(cls=LazyCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="push-tokens", message="%(prog)s %(version)s")
def main() -> None:
    """Run and look after the push token registry.

    Settings come from the environment: DATABASE_URL names the PostgreSQL. A command that makes
    something prints one JSON line on stdout, everything else goes to stderr. Where something is
    wrong, begin with `push-tokens doctor`.
    """


if __name__ == "__main__":
    main(prog_name="push-tokens")
