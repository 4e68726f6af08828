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
    from app import (
        bodies,
        cli,
        client_api,
        database,
        docs,
        doctor,
        embedded,
        errors,
        identity,
        metrics,
        monitoring,
        observation,
        registrar,
        service_api,
    )
    from app.config import Settings
    from app.fast_lane import Service

    settings = settings or Settings.from_env()
    database.check_url(settings)
    if not settings.database_url:
        embedded.binaries()

    app = Service(__name__, static_folder=None)
    app.config.from_mapping(
        SETTINGS=settings,
        PROVIDE_AUTOMATIC_OPTIONS=False,
    )
    app.url_map.merge_slashes = False

    connect = database.connector(settings)
    database.init_app(app, connect)
    registrar.init_app(app, connect)
    metrics.init_app(app)
    observation.init_app(app)
    identity.init_app(app)
    bodies.init_app(app)
    errors.init_app(app)
    app.register_blueprint(client_api.hot_bp)
    app.register_blueprint(client_api.bp)
    app.register_blueprint(service_api.bp)
    app.register_blueprint(monitoring.bp)
    app.register_blueprint(docs.bp)
    cli.init_app(app)
    doctor.init_app(app)
    return app
