"""deploy/README.md, walked as it stands from bare Debian 12 and PostgreSQL 15 to a restore.

tests/support/debian.py says what is replaced, and why.
"""

import re
import time
from collections.abc import Iterator

import pytest

from app.config import ROOT
from tests.support.debian import ENCODED, PASSWORD, Debian, postgresql

DOCUMENT = (ROOT / "deploy" / "README.md").read_text()
ELSEWHERE = {
    "Kubernetes": "there is no cluster; tests/deploy/test_kubernetes.py reads the manifests",
    "Beside Rocket.Chat": "there is no MongoDB; tests/deploy/test_cut_over.py plays it",
}
READY = "curl --fail --unix-socket /run/push-token-registry/gunicorn.sock http://x/readyz"
KINDS = ("owner", "app", "issuer", "report")
OF_TENANT = " ".join(["-v schema=tenant_a", *(f"-v {kind}=tenant_a_{kind}" for kind in KINDS)])


def sections() -> dict[str, list[str]]:
    """Return the blocks of commands by heading."""
    found = {}
    for section in DOCUMENT.split("\n## ")[1:]:
        heading, _, text = section.partition("\n")
        blocks = re.findall(r"^( *)```\n(.*?)^ *```$", text, re.M | re.S)
        if blocks:
            found[heading] = [re.sub(f"^{indent}", "", one, flags=re.M) for indent, one in blocks]
    return found


def check_doctor(said: str) -> None:
    """Expect a doctor who found all as it should be."""
    assert "right    revision" in said
    assert not re.search("^wrong", said, re.M), said


@pytest.fixture
def host() -> Iterator[Debian]:
    with postgresql() as cluster, Debian.fresh(cluster) as host:
        yield host


@pytest.mark.slow
def test_the_document_is_enough_from_bare_debian_to_a_restore(host: Debian):
    blocks = sections()
    tenant, managed, restore = blocks["PostgreSQL"]
    install(host, blocks["Install"])
    note_success(host, *blocks["Purges"])
    serve_tenant(host, tenant)
    bring_back(host, restore)
    without_superuser(host, managed, *blocks["Install"], restore)
    (ROOT / "instance").mkdir(exist_ok=True)
    (ROOT / "instance" / "production-walk.txt").write_text("\n".join(host.shell.transcript))


def install(host: Debian, blocks: list[str]) -> None:
    """From nothing to a registration through nginx, behind a balancer."""
    release, database, settings, encode, tables, service, tls, site, works, *more = blocks
    host.run(release)
    host.run(database, f"{PASSWORD}\n" * 2 * 4)
    host.run(settings)
    assert host.run(encode, f"{PASSWORD}\n").endswith(ENCODED)
    assert '"scopes":["lookup"]' in host.run(tables)
    assert '"status":"ok"' in host.run(service)
    host.run(tls)
    host.certify()
    said = host.run(site)
    assert "test is successful" in said
    assert "warn" not in said
    said = host.run(works)
    check_doctor(said)
    assert '"userId":"trial"' in said
    balancer, rotation = more
    host.run(balancer.replace("10.0.0.0/8", "127.0.0.1"))
    log = host.root / "var" / "log" / "nginx" / "push-token-registry.log"
    deadline = time.monotonic() + 60
    while '"address":"203.0.113.7"' not in log.read_text():
        assert time.monotonic() < deadline, "nginx does not take the new file"
        host.run("curl https://push.example.org/healthz -H 'X-Forwarded-For: 203.0.113.7'")
    host.run(rotation)
    assert "maxsize 1G" in (host.root / "etc" / "logrotate.d" / "nginx").read_text()


def note_success(host: Debian, folder: str) -> None:
    """A timer's command notes for Prometheus that it succeeded."""
    host.run(folder)
    setting = "METRICS_TEXTFILE_DIR=/var/lib/push-token-registry-metrics"
    host.run(f"echo {setting} >>/etc/push-token-registry/environment")
    host.run("systemctl start push-token-registry-purge")
    assert list((host.root / "var/lib/push-token-registry-metrics").glob("*.prom"))


def serve_tenant(host: Debian, block: str) -> None:
    """Another schema in the same database, and the service on it."""
    check_doctor(host.run(block, f"{PASSWORD}\n" * 2 * 2))
    url = "postgresql://tenant_a_app:…@$database&options=-csearch_path%3Dtenant_a"
    host.run(f'echo "DATABASE_URL=\\"{url}\\"" >/etc/push-token-registry/environment')
    host.run("systemctl restart push-token-registry")
    host.run(READY)


def bring_back(host: Debian, block: str) -> None:
    """The database is lost, and comes back with both schemas; the service runs on."""
    host.run(".venv/bin/push-tokens sessions issue alice")
    dump, restore = block.split("\n\n")
    host.run(dump)
    host.run("runuser -u postgres -- dropdb --force push_tokens")
    check_doctor(host.run(restore))
    assert '"userId":"alice"' in host.run(".venv/bin/push-tokens show alice --json")
    create, *rest, doctor = restore.splitlines()
    assert ("createdb" in create, "doctor" in doctor) == (True, True)
    of_tenant = "\n".join(rest).replace("-n public", "-n tenant_a")
    of_tenant = of_tenant.replace("push_tokens_owner", "tenant_a_owner")
    host.run(of_tenant.replace("push_tokens <deploy", f"push_tokens {OF_TENANT} <deploy"))
    host.run(READY)
    host.run("systemctl stop push-token-registry")


def without_superuser(host: Debian, settings: str, *blocks: str) -> None:
    """The same on a managed server, whose administrator is none."""
    _, database, _, _, tables, *_, block = blocks
    host.superuser("DROP DATABASE push_tokens")
    host.superuser("DROP ROLE " + ", ".join(f"push_tokens_{kind}" for kind in KINDS))
    host.superuser(f"CREATE ROLE admin LOGIN CREATEROLE CREATEDB PASSWORD '{PASSWORD}'")
    host.shell.say("Once more, on a managed server")
    host.run(settings, f"{PASSWORD}\n")
    dump, restore = block.replace("runuser -u postgres -- ", "").split("\n\n")
    for one in (database, tables):
        host.run(one.replace("runuser -u postgres -- ", ""), f"{PASSWORD}\n" * 2 * 4)
    host.run(dump)
    host.run("dropdb push_tokens")
    check_doctor(host.run(restore))


def test_every_command_of_the_document_is_run_above_or_named():
    walked = {"Install": 11, "PostgreSQL": 3, "Purges": 1}
    counts = {heading: len(blocks) for heading, blocks in sections().items()}
    assert counts == walked | dict.fromkeys(ELSEWHERE, 1)
