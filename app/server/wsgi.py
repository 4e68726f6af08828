"""A complete ASGI request as a WSGI one (PEP 3333), and Flask's answer to it as one value."""

import io
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote_to_bytes

from flask import Flask

from app.api import request_log

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


# As they are on the wire; of every answer, whichever way it takes.
HEADERS = [(name.lower().encode(), value.encode()) for name, value in request_log.HEADERS]
PART = 256 * 1024  # bytes of a body that is made in parts, made at a time


class Answer(NamedTuple):
    """A response: the start of its body, and a function that returns what follows, if any does.

    The function is to be called in a thread until it returns nothing, or with False, which ends
    what the client does not want any more.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    more: Callable[[bool], bytes] | None = None


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
    """Have Flask answer a request.

    A long body that Flask makes in parts is not made ahead of its client: each further part is
    made, in this call's context, when it is asked for.
    """
    head: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        head[:] = status, headers

    context = copy_context()
    parts = context.run(app, environ, start_response)
    iterator = iter(parts)
    close = getattr(parts, "close", lambda: None)
    is_over = False

    def more(is_wanted: bool) -> bytes:
        nonlocal is_over
        if is_over:  # a closed file cannot be asked again
            return b""
        try:
            body = b"".join(_until(iterator, PART)) if is_wanted else b""
        except BaseException:  # also when the thread is told to end
            close()
            raise
        if is_over := len(body) < PART:
            close()
        return body

    body = context.run(more, True)
    status, headers = head
    rest = (lambda is_wanted: context.run(more, is_wanted)) if len(body) >= PART else None
    return Answer(int(status.split(" ", 1)[0]), _encoded(headers), body, rest)


def _until(parts: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Yield parts until they have `size` bytes or more together, or there are no more."""
    while size > 0 and (part := next(parts, None)) is not None:
        size -= len(part)
        yield part


def guard(app: Flask, environ: "WSGIEnvironment") -> Answer | None:
    """Run what Flask runs before the view of a request; return its answer, None to go on."""
    with app.request_context(environ):
        try:
            if app.preprocess_request() is None:
                return None
            raise RuntimeError("a guard answered instead of raising")
        except Exception as error:  # as Flask does around a view
            response = app.finalize_request(app.handle_user_exception(error))
            return Answer(
                response.status_code, _encoded(response.headers.items()), response.get_data()
            )


def _encoded(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
