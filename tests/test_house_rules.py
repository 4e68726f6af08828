"""What keeps the house in order: guards, who commits, and nothing cited that is not here.

The directions of imports are held by import-linter (pyproject.toml), in `make lint`.
"""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from app.config import ROOT

PUBLIC = {"/", "/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/docs/<asset>"}
COMMITS = {"commit", "committed", "transaction", "autocommit"}


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


def modules(root: str = "app") -> Iterator[tuple[str, ast.Module]]:
    """Yield every module of a folder, as a path below it and its syntax tree."""
    for path in sorted((ROOT / root).rglob("*.py")):
        yield str(path.relative_to(ROOT / root)), ast.parse(path.read_text())


def called(tree: ast.AST) -> set[str]:
    """Return the names of all functions and methods that are called, and of their keywords."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = {getattr(call.func, "attr", None) or getattr(call.func, "id", "") for call in calls}
    return names | {str(keyword.arg) for call in calls for keyword in call.keywords}


def test_only_who_answers_a_caller_commits():
    """Views, commands, imports and confirmations commit; a verb never does."""
    committing = {path for path, tree in modules() if COMMITS & called(tree)}
    assert committing == {
        "api/client.py",
        "api/service.py",
        "cli/doctor_database.py",
        "cli/push_tokens.py",
        "cli/service_keys.py",
        "cli/sessions.py",
        "cli/users.py",
        "database/connections.py",  # the settings of a new connection
        "database/retries.py",
        "identity/confirmation.py",
        "server/writer.py",
        "services.py",
        "transfer/push_token_import.py",
        "transfer/session_ends.py",
        "transfer/session_import.py",
    }


def test_the_check_for_commits_sees_each_way_to_commit():
    for code in ("db.session.commit()", "committed(verb, 1)", "connect(autocommit=True)"):
        assert COMMITS & called(ast.parse(code)), code


CITED = re.compile(r"\b(design|domain)(\.md)? \d|\b(design|domain|findings)\.md|\bRC#\d")
TEXTS = {".py", ".md", ".conf", ".sql", ".yml", ".yaml", ".toml", ".service", ".sh", ".mako"}


def test_nothing_is_cited_that_the_repository_lacks():
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "README.md" in files.stdout.split()
    for name in files.stdout.split():
        path = ROOT / name
        if path.suffix in TEXTS and path.exists() and path != Path(__file__):
            assert not CITED.search(path.read_text()), name


def imported(tree: ast.AST) -> set[str]:
    """Return what a module imports, by absolute names; what is relative begins with a dot."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            found |= {f"{source}.{alias.name}" for alias in node.names}
    return found


def is_of_a_test(name: str) -> bool:
    """Tell whether an imported name is of a test or of a conftest.py."""
    inside = name.startswith(("tests.", ".")) or name.split(".", maxsplit=1)[0].startswith("test_")
    return "conftest" in name or (inside and not name.startswith("tests.support."))


def test_no_test_imports_another():
    """What two of them need is in tests/support/."""
    checked = dict(modules("tests"))
    assert {"conftest.py", "faults/conftest.py", "support/live.py"} <= checked.keys()
    for path, tree in checked.items():
        assert not [name for name in imported(tree) if is_of_a_test(name)], path


def test_the_check_for_imports_sees_each_way_to_import():
    for code in (
        "from tests.conftest import migrate",
        "from tests import conftest",
        "import tests.api.test_client",
        "def test(): from tests.faults.test_database import LONGEST",
        "from .conftest import migrate",
        "from . import test_client",
        "import conftest",
    ):
        assert [name for name in imported(ast.parse(code)) if is_of_a_test(name)], code


def test_the_names_of_tests_are_short_sentences():
    names = [
        node.name
        for _, tree in modules("tests")
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert len(names) > 400
    assert not [name for name in names if len(name) > 70]
