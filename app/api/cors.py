"""Cross-origin calls of the apps, for WebViews and browsers: `CORS_ORIGINS` (the Fetch standard).

Credentials are headers that a page has to know, never cookies, so an origin that is let in gets no
right that it had not: `Access-Control-Allow-Credentials` is not sent, and `*` is no risk.
"""

from flask import Flask, Response, request

from app import services
from app.api import request_log

Headers = list[tuple[str, str]]

# Those that are read, and those more that Rocket.Chat lets pages send
# (`apps/meteor/app/api/server/middlewares/cors.ts` at 1f20f2e).
REQUEST_HEADERS = (
    "Content-Type, X-Auth-Token, X-Request-Id, X-User-Id, "
    "Accept, Authorization, Origin, X-Requested-With, X-Visitor-Token"
)
RESPONSE_HEADERS = "Retry-After, X-Request-Id"
MAX_AGE = "7200"  # seconds that a browser keeps a preflight's answer; Chromium keeps none longer
BLUEPRINT = "client"  # the calls of the apps: a browser has no service key


class Cors:
    """Which headers an answer gets, for the allowed origins."""

    def __init__(self, origins: tuple[str, ...], methods: dict[str, str]):
        """`methods` are those of each path that other origins may call."""
        self._origins = frozenset(origins)
        self._methods = methods

    def headers(self, path: str, origin: str) -> Headers:
        """Return the headers of an answer to this path and `Origin`, "" where it has none."""
        if path not in self._methods:
            return []
        if "*" in self._origins:
            allowed: Headers = [("Access-Control-Allow-Origin", "*")]
        elif origin in self._origins:
            allowed = [("Vary", "Origin"), ("Access-Control-Allow-Origin", origin)]
        else:
            return [("Vary", "Origin")]
        return [*allowed, ("Access-Control-Expose-Headers", RESPONSE_HEADERS)]

    def preflight(self, path: str, origin: str) -> Headers:
        """Return what the answer to a preflight has beside it; nothing where it is not allowed."""
        if path not in self._methods or not ({"*", origin} & self._origins):
            return []
        return [
            ("Access-Control-Allow-Methods", self._methods[path]),
            ("Access-Control-Allow-Headers", REQUEST_HEADERS),
            ("Access-Control-Max-Age", MAX_AGE),
        ]


def of(app: Flask) -> Cors | None:
    """Return the rules of an app, None where no other origin may call it."""
    found: Cors | None = app.extensions.get("cors")
    return found


def init_app(app: Flask) -> None:
    """Answer the allowed origins; call it when all routes are there."""
    origins = services.of(app).settings.cors_origins
    if not origins:
        return
    methods: dict[str, set[str]] = {}
    for rule in app.url_map.iter_rules():
        if rule.endpoint.startswith(f"{BLUEPRINT}."):
            methods.setdefault(rule.rule, set()).update(rule.methods or ())
    named = {path: ", ".join(sorted(some - {"HEAD"})) for path, some in methods.items()}
    cors = app.extensions["cors"] = Cors(origins, named)

    def answer_preflight() -> Response | None:
        origin = request.headers.get("Origin", "")
        is_preflight = "Access-Control-Request-Method" in request.headers
        if request.method != "OPTIONS" or not is_preflight:
            return None
        headers = cors.preflight(request.path, origin)
        if not headers:
            return None  # the ordinary 405 or 404
        request_log.name_route(request.path)  # one of ours: log and metrics may have it
        return Response(status=204, headers=headers, mimetype="application/json")

    def add_headers(response: Response) -> Response:
        response.headers.extend(cors.headers(request.path, request.headers.get("Origin", "")))
        return response

    app.before_request(answer_preflight)
    app.after_request(add_headers)
