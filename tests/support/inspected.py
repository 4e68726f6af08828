"""The service with one more path, on which a worker says how it waits."""

import threading

import psycopg.waiting
from flask import Flask

from app import create_app


def inspected() -> Flask:
    app = create_app()

    @app.get("/inspect")
    def inspect() -> dict[str, object]:
        return {
            "waits_in_c": psycopg.waiting.wait is getattr(psycopg.waiting, "wait_c", None),
            "lock": type(threading.Lock()).__module__,
        }

    return app


app = inspected()
