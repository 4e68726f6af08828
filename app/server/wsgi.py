"""A complete ASGI request as a WSGI one (PEP 3333), and Flask's answer to it as one value."""

import io
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote_to_bytes

from flask import Flask

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


class Answer(NamedTuple):
    """A response, its body in the pieces in which it was made."""

    status: int
    headers: list[tuple[bytes, bytes]]
    chunks: list[bytes]


class BrokenBody(io.RawIOBase):
    """A body that was cut short or malformed: reading it fails, as a socket would."""

    def readable(self) -> bool:
        """Tell that it may be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Raise OSError."""
        raise OSError("the body ends early")


def environ_of(scope: Mapping[str, Any], headers: Iterable[tuple[bytes, bytes]]) -> dict[str, Any]:
    """Return the WSGI environment of an ASGI scope, without its input.

    A header's name with `_` is left out: it would be taken for the one with `-` that a proxy sets.
    A header that comes twice is one, its values joined by a comma.
    """
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(scope["raw_path"]).decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1").upper(), raw_value.decode("latin-1")
        if "_" in name:
            continue
        name = name.replace("-", "_")
        if name not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            name = f"HTTP_{name}"
        environ[name] = f"{environ[name]},{value}" if name in environ else value
    return environ


def call(app: Flask, environ: "WSGIEnvironment") -> Answer:
    """Have Flask answer a request."""
    head: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        head[:] = status, headers

    body = app(environ, start_response)
    try:
        chunks = [chunk for chunk in body if chunk]
    finally:
        if close := getattr(body, "close", None):
            close()
    status, headers = head
    return Answer(int(status.split(" ", 1)[0]), _encoded(headers), chunks)


def guard(app: Flask, environ: "WSGIEnvironment") -> Answer | None:
    """Run what Flask runs before the view of a request; return its answer, None to go on."""
    with app.request_context(environ):
        try:
            if app.preprocess_request() is None:
                return None
            raise RuntimeError("a guard answered instead of raising")
        except Exception as error:
            response = app.finalize_request(app.handle_user_exception(error))
            return Answer(
                response.status_code, _encoded(response.headers.items()), [response.get_data()]
            )


def _encoded(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
