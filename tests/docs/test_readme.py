"""README.md and docs/ say what is true: examples are run, tables and lists are compared."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from flask import Flask

from app import limits
from app.api import bodies, service_schemas
from app.cli.main import main
from app.config import ROOT
from app.registry import feedback, push_tokens
from app.server import http

README = (ROOT / "README.md").read_text()
DOCS = {path.name: path.read_text() for path in (ROOT / "docs").glob("*.md")}
WITH_LINKS = [
    ROOT / "README.md",
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / room / "README.md" for room in ("deploy", "deploy/citus", "examples", "migrations")),
]
SECRET = "[A-Za-z0-9_-]{43}"
# What differs from one run to the next, and what it has to look like all the same.
RANDOM = {
    r'"_id":"[2-9A-HJ-NP-TW-Za-km-z]{17}"': '"_id":"…"',
    rf'"authToken":"{SECRET}"': '"authToken":"…"',
    r'"(createdAt|updatedAt|expiresAt)":"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"': r'"\1":"…"',
}


def settled(lines: list[str]) -> list[str]:
    text = "\n".join(lines)
    for pattern, same in RANDOM.items():
        text = re.sub(pattern, same, text)
    return text.splitlines()


def printed(block: str) -> list[str]:
    """Return what a block says comes back."""
    return [line.removeprefix("# ") for line in block.splitlines() if line.startswith("# ")]


def examples(text: str) -> list[str]:
    """Return the blocks of a document that are to be pasted, with what comes back."""
    blocks = re.findall(r"^```\n(.*?)^```$", text, re.M | re.S)
    return [block for block in blocks if "\n# {" in block or block.startswith("URL=")]


@pytest.mark.parametrize(("text", "at_least"), [(README, 1), (DOCS["walkthrough.md"], 14)])
def test_pasted_examples_print_what_stands_below_them(text, at_least, live, migrated):
    bin_ = Path(sys.executable).parent
    pasted = examples(text)
    script = "\n".join(f"{block}echo ---" for block in pasted)
    assert script.count("http://127.0.0.1:8000") == 1
    script = script.replace("http://127.0.0.1:8000", live.url).replace(".venv/bin", str(bin_))
    issuing = f"env DATABASE_URL={shlex.quote(migrated.issuer)} {bin_}/push-tokens service-keys"
    script = script.replace(f"{bin_}/push-tokens service-keys", issuing)
    environ = {"PATH": f"{bin_}:{os.environ['PATH']}", "DATABASE_URL": migrated.app}
    done = subprocess.run(
        ["bash", "-eu"],
        input=script,
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    *outputs, rest = done.stdout.split("---\n")
    assert rest == ""
    assert len(outputs) == len(pasted)
    for block, output in zip(pasted, outputs, strict=True):
        assert settled(output.splitlines()) == settled(printed(block)), block
    assert sum(len(printed(block)) for block in pasted) >= at_least


def test_no_other_document_has_examples_that_are_not_run():
    with_answers = [name for name, text in DOCS.items() if examples(text)]
    assert with_answers == ["walkthrough.md"]


def calls(app: Flask) -> dict[str, str]:
    """Return the API's calls, as `POST /path`, and the scope of each."""
    return {
        f"{method} {rule.rule}": getattr(app.view_functions[rule.endpoint], "scope", "")
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD"}
        if rule.rule.startswith("/api/")
    }


def test_the_readme_lists_every_call_with_its_scope(app):
    rows = re.findall(r"^\| `([A-Z]+ /api/\S+)` \| (?:`(\w+)`)? ?\|", README, re.M)
    assert dict(rows) == calls(app)


def test_the_contract_lists_every_call_with_its_scope(app):
    contract = DOCS["contract.md"]
    apps = re.findall(r"^\| `([A-Z]+ /api/\S+)` \|", contract, re.M)
    services = re.findall(r"^\| `(/api/\S+)` \| `(\w+)` \|", contract, re.M)
    listed = dict.fromkeys(apps, "") | {f"POST {path}": scope for path, scope in services}
    assert listed == calls(app)


def test_the_contract_has_the_limits_of_the_code():
    rows = re.findall(r"^\| (.+?) \| ([\d,]+)( KiB| MiB)? \|", DOCS["contract.md"], re.M)
    units = {"": 1, " KiB": 1024, " MiB": 1024**2}
    shown = {what: int(number.replace(",", "")) * units[unit] for what, number, unit in rows}
    expected = {
        "push token (`value`, `token`)": limits.MAX_PUSH_TOKEN,
        "`appName`": limits.MAX_APP_NAME,
        "`userId`, also in `X-User-Id`": limits.MAX_USER_ID,
        "`id`": limits.MAX_DEVICE_ID,
        "path and query": http.MAX_LINE,
        "request head": http.MAX_HEAD,
        "body of an app's call": bodies.MAX_BODY,
        "values in a body over 64 KiB": bodies.MAX_SEPARATORS,
        "registrations of a user in one answer": push_tokens.MAX_OF_USER,
        "elements of a list": service_schemas.MAX_ITEMS,
    }
    for call in ("lookup", "list", "feedback"):
        expected[f"body of `push.tokens.{call}`"] = bodies.limit_of(f"/api/v1/push.tokens.{call}")
    for call in ("put", "revoke"):
        expected[f"body of `sessions.{call}`"] = bodies.limit_of(f"/api/v1/sessions.{call}")
    assert {what: shown[what] for what in expected} == expected


def test_the_contract_has_the_verdicts_that_remove():
    pattern = r"^\| `(fcm|apns)` \| (\d+)(?: `(\w+)`)? \| removes(?: with `(\w+)`)? \|"
    shown = re.findall(pattern, DOCS["contract.md"], re.M)
    vouched = {"": None} | {shown: name for name, shown in feedback.VOUCHED.items()}
    rows = [(who, int(status), error or None, vouched[by]) for who, status, error, by in shown]
    assert rows == list(feedback.REMOVES)


def test_the_contract_has_every_error_type_of_the_apps_calls():
    pattern = r"error-\w+-param-not-valid"
    raised = set(re.findall(pattern, (ROOT / "app" / "api" / "schemas.py").read_text()))
    assert set(re.findall(pattern, DOCS["contract.md"])) == raised


def commands(group: click.Group, before: str = "") -> Iterator[tuple[str, click.Command]]:
    """Give the commands of a group, by what one types after `push-tokens`."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def table_of_commands() -> dict[str, tuple[str, str]]:
    """Return by command what one types after it, and all that its row says."""
    pattern = r"^(\| `push-tokens ([a-z][a-z-]*(?: [a-z][a-z-]*)?)(.*?) \| .*)$"
    rows = re.findall(pattern, DOCS["operations.md"], re.M)
    return {command: (usage, row) for row, command, usage in rows}


def test_the_table_of_commands_is_what_push_tokens_has():
    assert set(table_of_commands()) == dict(commands(main)).keys()


def test_the_table_of_commands_has_their_arguments_and_options():
    real = dict(commands(main))
    for name, (usage, row) in table_of_commands().items():
        parameters = real[name].params
        arguments = [one for one in parameters if isinstance(one, click.Argument)]
        options = [one for one in parameters if isinstance(one, click.Option)]
        before_options = usage.split("--")[0]
        shown = [one.name.upper() for one in arguments]
        assert re.findall(r"[A-Z_]{2,}", before_options) == shown, name
        told = set(re.findall(r"--[a-z-]+", row))
        assert told <= {flag for option in options for flag in option.opts}, name
        for option in options:
            assert not option.required or told & set(option.opts), (name, option.opts)


def listed() -> list[str]:
    """Return the paths of the section "Where things are"."""
    tree = README.split("## Where things are")[1].split("```")[1]
    found = []
    for line in tree.strip().splitlines():
        path, _, what = line.partition("  ")
        found.append(path)
        for more in re.findall(r"[\w/.*-]+\.(?:py|conf|sql|md)\b|\b\w+/(?=[,; :]|$)", what):
            beside = Path(path if path.endswith("/") else Path(path).parent) / more
            found.append(more if (ROOT / more).exists() else str(beside))
    return found


def test_the_architecture_names_only_modules_that_exist():
    """They are written from app/ on, and `registration_sql.py` after its neighbour."""
    text = DOCS["architecture.md"]
    for named in re.findall(r"`((?:\w+/)?\w+\.py)`", text):
        found = [*(ROOT / "app").rglob(named), *ROOT.glob(named)]
        assert found, named


def test_the_architecture_names_every_room_in_the_order_of_the_layers():
    rows = re.findall(r"^\| (`.+?`) \|", DOCS["architecture.md"], re.M)
    shown = [re.sub(r"[`/]|\.py", "", row).split(", ") for row in rows if "`app/`" not in row]
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    expected = [name for one in layers["contracts"][0]["layers"] for name in one.split(" | ")]
    assert [name for row in shown for name in row] == expected


def test_where_things_are_names_only_what_exists():
    for path in listed():
        assert list(ROOT.glob(path.rstrip("/"))), path


def test_where_things_are_names_every_room():
    there = set(listed())
    rooms = {f"app/{path.parent.name}/" for path in (ROOT / "app").glob("*/__init__.py")}
    modules = {f"app/{path.name}" for path in (ROOT / "app").glob("*.py")}
    assert (modules | rooms) - there == set()


def anchors(text: str) -> set[str]:
    """Return what a link may name within a document: its headings, as GitHub spells them."""
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", WITH_LINKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(path):
    for target, heading in re.findall(r"\]\((?!http)([^)#]+)(?:#([^)]+))?\)", path.read_text()):
        assert (path.parent / target).exists(), target
        assert not heading or heading in anchors((path.parent / target).read_text()), heading


@pytest.mark.parametrize("path", WITH_LINKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_documents_name_exist(path):
    """Paths from the root; those of Rocket.Chat end in .js or .ts and are not looked for."""
    rooms = "app|bench|deploy|docs|examples|migrations|tests"
    names = rf"\b((?:{rooms})/[\w./*-]*(?:/|\.(?:py|md|conf|sql|yml|json)))(?![\w/])"
    for named in re.findall(names, path.read_text()):
        assert list(ROOT.glob(named.rstrip("/"))), named
