"""`push-tokens migrate`: Alembic, also where there is no checkout with its configuration."""

import click
from alembic.config import CommandLine, Config
from alembic.util import CommandError

from app.config import ROOT

MOST_BACKFILLS = 5  # more than there are revisions that demand one


@click.command("migrate", context_settings={"ignore_unknown_options": True})
@click.option(
    "--backfill",
    "is_filling",
    is_flag=True,
    help="Where a revision demands filled rows, fill them and go on: while no release serves that"
    " still writes rows without.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def migrate(ctx: click.Context, is_filling: bool, arguments: tuple[str, ...]) -> None:
    """Migrate the database to what this release needs: `alembic upgrade head`.

    ARGUMENTS are those of `alembic`, such as `current`, `downgrade REVISION`,
    `upgrade head --sql` or `-x tries=100 upgrade head`. Run it as the role that owns the tables.
    """
    line = CommandLine(prog="push-tokens migrate")
    options = line.parser.parse_args(arguments or ("upgrade", "head"))
    if not hasattr(options, "cmd"):
        raise click.UsageError("Say what to do: see `push-tokens migrate -- --help`.")
    options.raiseerr = True
    config = Config(cmd_opts=options)
    config.set_main_option("script_location", str(ROOT / "migrations").replace("%", "%%"))
    for left in range(MOST_BACKFILLS if is_filling else 0, -1, -1):
        try:
            line.run_cmd(config, options)
            return
        except CommandError as error:
            if not left or "push-tokens backfill" not in str(error):
                raise click.ClickException(str(error)) from None
        from app.cli.push_tokens import backfill_push_tokens  # noqa: PLC0415 (only where needed)

        ctx.invoke(backfill_push_tokens)
