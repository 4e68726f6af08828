"""deploy/citus/README.md: its commands, as they stand and in its order, with Citus played."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.config import ROOT
from app.database import embedded
from tests.support import citus
from tests.support.roles import Roles

MANUAL = (citus.SCRIPTS / "README.md").read_text()
KINDS = ("owner", "app", "issuer", "report")


def commands() -> list[str]:
    """Return what is to be run against the coordinator, in order."""
    blocks = re.findall(r"^( *)```\n(.*?)^\1```$", MANUAL, re.M | re.S)
    lines = [line.strip() for _, block in blocks for line in block.splitlines()]
    runnable = [line for line in lines if line.startswith(("psql ", "DATABASE_"))]
    return [line for line in runnable if " -d push_tokens " not in line]


def exported() -> set[str]:
    """Return the names that the manual says to set."""
    lines = re.findall(r"^export (.+)$", MANUAL, re.M)
    return {name for line in lines for name in re.findall(r"\b([A-Z][A-Z0-9_]+)=", line)}


@pytest.fixture(scope="module")
def environ(new_database):
    """The manual's names, for a database and roles of this test's own."""
    url = new_database()
    nodes = [name for name in exported() if name.startswith(("COORDINATOR", "WORKER"))]
    with Roles.on(url) as roles:
        citus.stand_in(url)  # the roles come first, as in the manual
        with Roles.on(url, "tenant_a") as tenant:
            path = f"{embedded.binaries()}:{Path(sys.executable).parent}:{os.environ['PATH']}"
            yield {
                **os.environ,
                "PATH": path,
                **{name: "5432" if name.endswith("_PORT") else "node" for name in nodes},
                "ADMIN_URL": url,
                "OWNER_URL": roles.url("owner"),
                "APP_URL": roles.url("app"),
                "TENANT_OWNER_URL": tenant.url("owner"),
                "TENANT_APP_URL": tenant.url("app"),
                "ROLES": " ".join(f"-v {kind}={roles.names[kind]}" for kind in KINDS),
                **{f"tenant_a_{kind}": tenant.names[kind] for kind in KINDS},
            }


def own_names(command: str, environ: dict[str, str]) -> str:
    """Put the names of this test's own roles into a command."""
    for kind in KINDS:
        command = command.replace(f"tenant_a_{kind}", environ[f"tenant_a_{kind}"])
    if "roles.sql" in command and "-v owner=" not in command:
        command = command.replace("-f deploy", f"{environ['ROLES']} -f deploy")
    return command


@pytest.mark.slow
def test_every_command_runs_in_the_manuals_order(environ):
    listed = commands()
    assert len(listed) >= 18
    used = set(re.findall(r"\$([A-Z][A-Z0-9_]+)", str(listed)))
    assert "WORKER3_PORT" in used <= exported()
    assert {"spread.sql", "tenant.sql", "gather.sql"} <= set(re.findall(r"\w+\.sql", str(listed)))
    for command in listed:
        done = subprocess.run(
            ["bash", "-c", own_names(command, environ)],
            cwd=ROOT,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        assert not re.search(r"^(wrong|warning) +tables", done.stdout, re.M), done.stdout
    called = [call.split("(")[0] for call in citus.calls(environ["ADMIN_URL"])]
    assert called == [
        *["create_distributed_table"] * 2,
        "citus_schema_distribute",
        *["undistribute_table"] * 2,
    ]


def test_what_scripts_are_given_they_know():
    names = re.findall(r"-v (\w+)=(?=[^\n]*(?:deploy/citus/(\w+\.sql)|roles\.sql))", MANUAL)
    assert {"ON_ERROR_STOP", "schema", "owner"} <= {name for name, _ in names}
    for name, script in names:
        path = citus.SCRIPTS / script if script else ROOT / "deploy/postgresql/roles.sql"
        assert name == "ON_ERROR_STOP" or f":{name}" in path.read_text().replace(
            ':"', ":"
        ).replace(":'", ":").replace("{?", ""), (name, script)
