"""The commands; one that makes something prints one JSON line on stdout.

`push-tokens` imports only what the command that was typed needs (main.py), and `flask` does too
(under_flask.py): a worker serves and needs none.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask


def init_app(app: "Flask") -> None:
    """Add the commands to `flask`, which has groups where `push-tokens` has them on top."""
    from app.cli.under_flask import UnderFlask  # noqa: PLC0415 (`push-tokens --help` loads no Flask)

    app.cli = UnderFlask(app.name)
