"""The factory: a table of contents of the service.

The parts are imported when an app is made, not before: gunicorn's master imports this package
for its configuration (`-c python:app.gunicorn_conf`), and psycopg must not be loaded before
gevent has patched the worker, or it waits for PostgreSQL in C and every client with it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from app.config import Settings


def create_app(settings: "Settings | None" = None) -> "Flask":
    """Make the service from settings, by default those of the environment.

    Raises ConfigError for an unusable setting. Nothing is connected before the first request.
    """
    from app import cli, services
    from app.api import bodies, client, errors, monitoring, request_log, service
    from app.config import Settings
    from app.database import connections, embedded
    from app.docs import page
    from app.server.fast_path import Service
    from app.server.group_commit import services_of

    settings = settings or Settings.from_env()
    connections.check_url(settings)
    if not settings.database_url:
        embedded.binaries()

    app = Service(__name__, static_folder=None)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.merge_slashes = False

    connect = connections.connector(settings)
    connections.init_app(app, settings, connect)
    services.init_app(app, services_of(settings, connect))
    request_log.init_app(app)
    bodies.init_app(app)
    errors.init_app(app)
    for room in (client, service, monitoring, page):
        app.register_blueprint(room.bp)
    app.register_blueprint(client.hot_bp)
    cli.init_app(app)
    return app
