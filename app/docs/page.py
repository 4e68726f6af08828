"""The OpenAPI document and the page that shows it, with Swagger UI's files from its package."""

from functools import cache
from importlib.metadata import files
from pathlib import Path

from flask import Blueprint, Response, abort, current_app, send_file
from flask.typing import ResponseReturnValue

from app import services
from app.config import ROOT

bp = Blueprint("docs", __name__)

# Swagger UI's style sheet has its icons as data: images; nothing else is looser than 'self'.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
OURS = {"page.js": "text/javascript", "page.css": "text/css"}
SWAGGER_UI = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}
FOLDER = ROOT / "app" / "docs" / "assets"


@cache
def _swagger_ui(name: str) -> Path:
    """Return the path of a file of Swagger UI, without importing the package around it."""
    wanted = f"flask_swagger_ui/dist/{name}"
    (found,) = [file for file in files("flask-swagger-ui") or () if str(file) == wanted]
    return Path(str(found.locate()))


def _send(path: Path, content_type: str) -> Response:
    """Send a file with an ETag: who kept it gets a 304."""
    response = send_file(path, mimetype=content_type)
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


@bp.get("/openapi.json")
def openapi_json() -> Response:
    """Show this document.

    It is made once a process, by the first request for it.
    """
    shared = services.current()
    if shared.openapi is None:
        from app.docs import openapi  # noqa: PLC0415 (most workers are never asked)

        shared.openapi = openapi.build(current_app, [*OURS, *SWAGGER_UI])
    return Response(shared.openapi, content_type="application/json")


@bp.get("/")
def show_root() -> ResponseReturnValue:
    """Lead to the page with the calls."""
    return {"docs": "/docs"}, 302, {"Location": "/docs"}


@bp.get("/docs")
def show_page() -> Response:
    """Show this page, on which calls can be tried."""
    return _send(FOLDER / "page.html", "text/html")


@bp.get("/docs/<asset>")
def show_asset(asset: str) -> Response:
    """Send a file of this page.

    404 for a name that is in neither table.
    """
    if asset in OURS:
        return _send(FOLDER / asset, OURS[asset])
    if asset in SWAGGER_UI:
        return _send(_swagger_ui(asset), SWAGGER_UI[asset])
    return abort(404)
