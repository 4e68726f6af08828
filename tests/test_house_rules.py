"""What keeps the house in order: guards, directions."""

import re

import pytest

from app.config import ROOT

PUBLIC = {"/healthz", "/readyz"}

# A module may import those above it.
LAYERS = [
    {"models", "config"},
    {"embedded", "schemas", "service_keys"},
    {"database", "service_schemas"},
    {"push_tokens", "errors", "bodies", "feedback"},
    {"sessions"},
    {"registration_sql"},
    {"registrar", "auth", "dispatch"},
    {"rotation"},
    {"client_api", "service_api", "monitoring", "cli"},
    {"__init__", "gunicorn_worker"},
    {"gunicorn_conf", "run"},
]
KNOW_NO_FLASK = {
    "config",
    "feedback",
    "service_keys",
    "embedded",
    "push_tokens",
    "registration_sql",
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
    found = {}
    for path in (ROOT / "app").glob("*.py"):
        code = path.read_text()
        names = set(re.findall(r"^\s*from app\.(\w+) import", code, re.M))
        for line in re.findall(r"^\s*from app import \(?([^)]*?)(?:\)|$)", code, re.M):
            names |= set(re.findall(r"\w+", line))
        found[path.stem] = names - {"create_app"}
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
    for module in ("sessions", "push_tokens", "rotation", "service_keys", "feedback"):
        assert ".commit(" not in (ROOT / "app" / f"{module}.py").read_text()
