"""TLS to PostgreSQL: `sslmode=verify-full` in DATABASE_URL, and an authority of our own."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from app.database import embedded
from tests.support.clusters import DATABASE, Cluster
from tests.support.committing import Gates, asked, committing
from tests.support.databases import migrate, opened
from tests.support.factories import Caller, body
from tests.support.live import free_port
from tests.support.parts import part

PATH = "/api/v1/push.token"
KEY = ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


def openssl(*arguments: str | Path) -> None:
    subprocess.run([part("openssl"), *map(str, arguments)], check=True, capture_output=True)


def authority(folder: Path, name: str) -> Path:
    """Make a certificate authority; return its certificate."""
    files = ("-keyout", folder / f"{name}.key", "-out", folder / f"{name}.crt")
    openssl(*KEY, "-x509", "-days", "2", "-subj", f"/CN={name}", *files)
    return folder / f"{name}.crt"


def certify(folder: Path, ca: Path, host: str) -> None:
    """Make the server's key and certificate."""
    request, extension = folder / "server.csr", folder / "server.ext"
    openssl(*KEY, "-subj", f"/CN={host}", "-keyout", folder / "server.key", "-out", request)
    extension.write_text(f"subjectAltName=DNS:{host}")
    signed = ("-CA", ca, "-CAkey", ca.with_suffix(".key"), "-CAcreateserial", "-days", "2")
    out = ("-extfile", extension, "-out", folder / "server.crt")
    openssl("x509", "-req", "-in", request, *signed, *out)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A server that lets nobody in over TCP without TLS; the wheel's is built without it."""
    cluster = Cluster(Path(part("postgres")).parent)
    cluster.port = free_port()
    try:
        cluster.create()
        certify(cluster.folder, authority(cluster.folder, "ca"), "localhost")
        authority(cluster.folder, "stranger")
        embedded.server._hand_over(cluster.folder / "server.key")
        rules = "local all all trust\nhostssl all all 127.0.0.1/32 trust\n"
        (cluster.data / "pg_hba.conf").write_text(rules)
        key, certificate = cluster.folder / "server.key", cluster.folder / "server.crt"
        files = (f"ssl_key_file={key}", f"ssl_cert_file={certificate}")
        cluster.start("listen_addresses=127.0.0.1", "ssl=on", *files)
        cluster.wait_until_up()
        cluster.create_database()
        migrate(cluster.url(), "upgrade", "head")
        yield cluster
    finally:
        cluster.remove()


def over_tls(cluster: Cluster, host: str = "localhost", ca: str = "ca") -> str:
    """Return the URI that checks the server's certificate and name."""
    root = quote(str(cluster.folder / f"{ca}.crt"), safe="")
    checked = f"sslmode=verify-full&sslrootcert={root}&user=postgres"
    return f"postgresql://{host}:{cluster.port}/{DATABASE}?{checked}"


@pytest.fixture
def caller(cluster: Cluster) -> Iterator[Caller]:
    with opened(cluster.url()) as database:
        yield database.sign_in("alice")
        database.forget_everyone()


def test_every_connection_is_encrypted(cluster, new_app, caller, monkeypatch):
    client = new_app(database_url=over_tls(cluster)).test_client()
    assert client.post(PATH, json=body(), headers=caller.headers).status_code == 200
    assert len(client.get(PATH, headers=caller.headers).json["tokens"]) == 1
    with committing(Gates(over_tls(cluster)), monkeypatch) as commit:
        members = [commit.submit(asked(caller, f"{n}" * 500)) for n in range(100)]
        assert all(member.result(60) for member in members)
        check_encryption(cluster, at_least=2)  # of the pool and of the hot path
    assert client.get("/readyz").status_code == 200


def check_encryption(cluster: Cluster, at_least: int) -> None:
    with opened(cluster.url()) as database:
        encrypted = database.rows(
            "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
            " WHERE application_name = 'push-token-registry'"
        )
    assert len(encrypted) >= at_least
    assert all(row["ssl"] for row in encrypted)


@pytest.mark.parametrize(
    ("host", "ca", "reason"),
    [
        ("localhost", "stranger", "certificate verify failed"),
        ("127.0.0.1", "ca", "does not match host name"),
    ],
    ids=["an authority that we do not know", "another name"],
)
def test_a_server_that_cannot_prove_itself_gets_nothing(
    cluster, new_app, caller, logged_here, host, ca, reason
):
    client = new_app(database_url=over_tls(cluster, host, ca)).test_client()
    for answer in (
        client.post(PATH, json=body(), headers=caller.headers),
        client.get(PATH, headers=caller.headers),
    ):
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"
        assert reason not in answer.text
    assert client.get("/readyz").json["error"] == "the database does not answer"
    assert [reason in str(line.get("reason")) for line in logged_here] == [True, True, True]


def test_a_command_says_why_it_cannot_connect(cluster, new_app):
    runner = new_app(database_url=over_tls(cluster, ca="stranger")).test_cli_runner()
    result = runner.invoke(args=["sessions", "purge"])
    assert result.exit_code == 1
    assert "certificate verify failed" in result.stderr
