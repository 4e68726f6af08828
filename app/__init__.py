"""The factory: a table of contents of the service.

The parts are imported when an app is made, not before: gunicorn's master imports this package
for its configuration (`-c python:app.gunicorn_conf`), and what it has imported is not replaced
when HUP brings new code.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from app.config import Settings


def create_app(settings: "Settings | None" = None) -> "Flask":
    """Make the service from settings, by default those of the environment.

    Raises ConfigError for an unusable setting. Nothing is connected before the first request.
    """
    from flask import Flask

    from app import cli, services
    from app.api import bodies, client, cors, errors, monitoring, request_log, routing, service
    from app.config import Settings
    from app.database import connections, embedded
    from app.docs import page

    settings = settings or Settings.from_env()
    connections.check_url(settings)
    if not settings.database_url:
        embedded.binaries()

    app = Flask(__name__, static_folder=None)
    connect = connections.connector(settings)
    connections.init_app(app, settings, connect)
    services.init_app(app, settings, connect)
    routing.init_app(app)
    request_log.init_app(app)
    bodies.init_app(app)
    errors.init_app(app)
    for blueprint in (client.bp, service.bp, monitoring.bp, page.bp):
        app.register_blueprint(blueprint)
    cors.init_app(app)
    cli.init_app(app)
    return app
