"""What decides which view answers: method and path, and nothing else that a client sends."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from flask import Flask

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class MethodAndPathOnly:
    """A WSGI middleware that takes out of a request what Flask's routing would also look at.

    No view asks where it is reached: a `Host` that is no name, or an `Upgrade` that nothing here
    offers, is no reason for a 400.
    """

    def __init__(self, app: "WSGIApplication"):
        self._app = app

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        """Answer a request (WSGI)."""
        environ["SERVER_NAME"] = "localhost"
        for name in ("HTTP_HOST", "HTTP_UPGRADE", "HTTP_CONNECTION"):
            environ.pop(name, None)
        return self._app(environ, start_response)


def init_app(app: Flask) -> None:
    """Have the app route by method and path, just as they came."""
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.merge_slashes = False
    app.wsgi_app = MethodAndPathOnly(app.wsgi_app)  # type: ignore[method-assign]  # Flask's own way
