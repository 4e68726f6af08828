"""deploy/Containerfile and compose.yaml: what can be known of them without an engine."""

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import psycopg
import pytest
import yaml
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from app import gunicorn_conf
from app.config import ROOT, Settings
from app.database import embedded
from app.version import VERSION
from tests.support.activation import SocketUnit
from tests.support.databases import migrate
from tests.support.factories import body, uri
from tests.support.filled import fill
from tests.support.live import Live, ask, free_port

CONTAINERFILE = (ROOT / "deploy" / "Containerfile").read_text()
SOCKET = "/run/push-token-registry/gunicorn.sock"


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, object]]:
    return yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    """The virtual environment of the image: built as the Containerfile says, and nothing more."""
    folder, venv = tmp_path_factory.mktemp("build"), tmp_path_factory.mktemp("opt") / "venv"
    let_through = (ROOT / ".dockerignore").read_text()
    for sources, target in re.findall(r"^COPY (?!--)(.*) (\S+)$", CONTAINERFILE, re.M):
        for source in sources.split():
            assert f"!{source}\n" in let_through
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, folder / target)
            else:
                shutil.copy(ROOT / source, folder / target)
    steps = " && ".join(
        re.findall(r"^RUN ((?:.*\\\n)*.*)$", CONTAINERFILE.split("\nFROM")[1], re.M)
    )
    steps = steps.replace("\\\n", " ").replace("--no-cache-dir ", "")
    steps = steps.replace("/build/venv", str(folder / "venv")).replace("/opt/venv", str(venv))
    steps = steps.replace("&& python ", f"&& {sys.executable} ")
    script = f"{sys.executable} {steps.removeprefix('python ')}"
    # Without settings that would make pip fetch what no hash names.
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        ["sh", "-ec", script], cwd=folder, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return venv


@pytest.mark.faults  # takes a minute
def test_the_wheel_alone_migrates_and_serves(image, new_database, services, tmp_path):
    """As an image or a host without a checkout has it; rows are filled on the way."""
    port, url = free_port(), new_database()
    migrate(url, "upgrade", "0003_refresh_heavy_tables")
    fill(url)
    environ = {"DATABASE_URL": url, "PORT": str(port), "PATH": f"{image}/bin:/usr/bin:/bin"}

    def run(*command: str) -> str:
        return subprocess.check_output(command, cwd=tmp_path, env=environ, text=True)

    assert run("push-tokens", "--version") == f"push-tokens {VERSION}\n"
    run(*services["migrate"]["command"])
    session = json.loads(run("push-tokens", "sessions", "issue", "demo"))
    serve = re.search(r'^CMD \["gunicorn", "(.*)"\]$', CONTAINERFILE, re.M)[1].split('", "')
    serve[serve.index("-b") + 1] = f"127.0.0.1:{port}"
    command = [f"{image}/bin/gunicorn", *serve]
    with subprocess.Popen(command, cwd=tmp_path, env=environ, stderr=subprocess.PIPE) as process:
        try:
            for line in process.stderr:
                if b"Booting worker" in line:
                    break
            live = Live(process, port)
            while not live.says_yes("/readyz"):
                assert process.poll() is None
            headers = {"X-User-Id": "demo", "X-Auth-Token": session["authToken"]}
            assert ask(live, "/api/v1/push.token", body(), **headers)[0] == 200
            for path in ("/docs", "/docs/page.css", "/docs/swagger-ui.css", "/openapi.json"):
                assert ask(live, path, method="GET")[0] == 200, path
        finally:
            process.terminate()
            process.stderr.read()
            assert process.wait(60) == 0
    left = subprocess.check_output(
        ["find", image, "-name", "push-tokens.sh", "-o", "-name", "docs*.png"]
    )
    assert left == b""


def test_every_package_is_pinned_by_its_hash():
    """The build backend too, and it is not fetched anew for the build."""
    names = re.findall(r"-r (\S+)", CONTAINERFILE)
    assert names == ["requirements.txt", "requirements-build.txt"]
    for name in names:
        packages = re.split(r"\n(?=[a-z])", (ROOT / name).read_text())
        assert packages
        assert all("--hash=sha256:" in one for one in packages if not one.startswith("#")), name
    assert CONTAINERFILE.count("--require-hashes") == 2
    assert CONTAINERFILE.count("pip install") == 3
    assert "pip install --no-index --no-deps" in CONTAINERFILE
    assert "pip wheel --no-index --no-deps --no-build-isolation" in CONTAINERFILE
    with (ROOT / "pyproject.toml").open("rb") as file:
        (backend,) = tomllib.load(file)["build-system"]["requires"]
    assert backend.partition(">")[0] in (ROOT / "requirements-build.txt").read_text()


def test_what_the_services_name_is_there(services):
    known = {setting.name.upper() for setting in fields(Settings)}
    for name in ("migrate", "registry", "service-keys"):
        assert services[name]["environment"].keys() <= known
    mounted = [volume for volume in services["nginx"]["volumes"] if volume.startswith("./")]
    inner = re.search(r"sed 's/(listen \S+;)/listen 8080;/'", services["nginx"]["command"][-1])[1]
    assert inner in (ROOT / "deploy" / "nginx.conf").read_text()
    assert (ROOT / "deploy" / mounted[0].split(":")[0]).is_file()
    for service in services.values():
        assert service.get("depends_on", []) == [] or set(service["depends_on"]) <= set(services)


def test_the_role_that_serves_is_no_superuser_and_issues_no_key(services, new_database):
    """What the services `roles` and `rights` run, under names and passwords of the test."""
    url, suffix = new_database(), secrets.token_hex(6)
    named = conninfo_to_dict(url)
    environ = {f"PG{name.upper()}": str(value) for name, value in named.items()}
    environ["PGDATABASE"] = environ.pop("PGDBNAME")
    passwords = {f"{kind}_PASSWORD": suffix for kind in ("OWNER", "APP", "ISSUER")}
    assert passwords.keys() < services["roles"]["environment"].keys()
    path = f"{embedded.binaries()}:{os.environ['PATH']}"
    roles = {kind: f"test_{kind}_{suffix}" for kind in ("owner", "app", "issuer", "report")}

    def arrange() -> None:
        assert services["roles"]["command"] == services["rights"]["command"]
        script = services["roles"]["command"][-1].replace("$$", "$")
        script = script.replace("/roles.sql", str(ROOT / "deploy/postgresql/roles.sql"))
        for kind, name in roles.items():
            script = script.replace(f"push_tokens_{kind}", name)
        run = {**environ, **passwords, "PATH": path, "PGOPTIONS": "-c client_min_messages=warning"}
        done = subprocess.run(["sh", "-ec", script], env=run, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")

    def role_of(service: str) -> str:
        url = services[service]["environment"]["DATABASE_URL"]
        return re.fullmatch(r"postgresql://push_tokens_(\w+):.+@postgresql/push_tokens", url)[1]

    used = {name: role_of(name) for name in ("migrate", "registry", "service-keys")}
    assert used == {"migrate": "owner", "registry": "app", "service-keys": "issuer"}
    with psycopg.connect(url, autocommit=True) as connection:
        try:
            arrange()
            migrate(uri(url, user=roles["owner"], password=suffix), "upgrade", "head")
            arrange()
            asked = (
                "SELECT rolsuper, has_table_privilege(rolname, 'service_keys', 'INSERT')"
                " FROM pg_roles WHERE rolname = %s"
            )
            found = {
                kind: connection.execute(asked, [name]).fetchone() for kind, name in roles.items()
            }
            assert found["app"] == found["report"] == (False, False)
            assert found["issuer"] == found["owner"] == (False, True)
        finally:
            for name in roles.values():
                for statement in ("REASSIGN OWNED BY {} TO CURRENT_USER", "DROP OWNED BY {}"):
                    connection.execute(sql.SQL(statement).format(sql.Identifier(name)))
                connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def test_nginx_and_the_registry_share_the_socket(services):
    folder = str(Path(SOCKET).parent)
    assert f'"-b", "unix:{SOCKET}"' in CONTAINERFILE
    assert f"server unix:{SOCKET} " in (ROOT / "deploy" / "nginx.conf").read_text()
    for name in ("registry", "nginx"):
        assert f"socket:{folder}" in services[name]["volumes"]


def test_the_engine_waits_longer_than_gunicorn_takes_to_stop(services):
    grace = int(services["registry"]["stop_grace_period"].removesuffix("s"))
    assert grace > gunicorn_conf.graceful_timeout


def test_the_health_check_sees_whether_gunicorn_lives(services, database_url, tmp_path_factory):
    path = tmp_path_factory.mktemp("s") / "s"
    _, *command = services["registry"]["healthcheck"]["test"]
    command = [sys.executable, *(one.replace(SOCKET, str(path)) for one in command[1:])]
    assert subprocess.run(command, check=False, capture_output=True).returncode != 0
    unit = SocketUnit(path)
    unit.start(database_url)
    try:
        assert subprocess.run(command, check=False).returncode == 0
    finally:
        unit.close()
