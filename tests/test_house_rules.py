"""What keeps the house in order: guards, directions."""

import ast
import re

import pytest

from app.config import ROOT

PUBLIC = {"/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/docs/<asset>"}

# A module may import those above it.
LAYERS = [
    {"models", "config", "mongoexport", "terminal", "logs", "hashes", "arrays"},
    {"embedded", "schemas", "service_keys", "metrics"},
    {"database", "service_schemas", "stats", "observation", "rocketchat"},
    {"push_tokens", "errors", "bodies", "feedback", "commands"},
    {"sessions", "exporter", "flights"},
    {"registration_sql", "purge"},
    {"registration_writer", "auth", "identity", "import_rows", "import_sql"},
    {"registrar", "backfill"},
    {"rotation", "importer", "session_import", "fast_lane"},
    {"push_tokens_cli", "api_calls"},
    {"api_answers"},
    {"openapi"},
    {"client_api", "service_api", "monitoring", "cli", "docs"},
    {"doctor_database"},
    {"doctor"},
    {"__init__", "gunicorn_worker"},
    {"gunicorn_conf", "run"},
]
KNOW_NO_FLASK = {
    "config",
    "feedback",
    "service_keys",
    "embedded",
    "flights",
    "push_tokens",
    "registration_sql",
    "registration_writer",
    "rocketchat",
    "rotation",
    "sessions",
}


def test_every_route_outside_the_public_list_has_a_guard(app, client):
    guarded = 0
    for rule in app.url_map.iter_rules():
        if rule.rule in PUBLIC:
            continue
        for method in rule.methods:
            answer = client.open(rule.rule, method=method, json={})
            assert answer.status_code == 401, (method, rule.rule)
            guarded += 1
    assert guarded >= 5


def imports() -> dict[str, set[str]]:
    """Return which modules of ours each of our modules imports, wherever in it."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "app").glob("*.py"):
        names = found.setdefault(path.stem, set())
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "app":
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("app."):
                names.add(node.module.removeprefix("app."))
    return found


def test_imports_go_one_way():
    height = {name: level for level, names in enumerate(LAYERS) for name in names}
    for module, imported in imports().items():
        for other in imported:
            assert height[other] < height[module], f"{module} imports {other}"


@pytest.mark.parametrize("module", sorted(KNOW_NO_FLASK))
def test_what_is_below_the_views_knows_no_request(module):
    code = (ROOT / "app" / f"{module}.py").read_text()
    assert not re.search(r"^\s*(from|import) flask\b", code, re.M)


def test_verbs_never_commit():
    for module in ("sessions", "push_tokens", "rotation", "service_keys", "feedback", "purge"):
        assert ".commit(" not in (ROOT / "app" / f"{module}.py").read_text()
