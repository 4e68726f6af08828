"""schemathesis calls the live service with all that the document allows, and all it does not."""

import os
import subprocess
import sys

import pytest

from app.config import ROOT
from app.docs.calls import CALLS


@pytest.mark.slow
def test_the_service_does_what_the_document_says(live, client, migrated, issue, tmp_path):
    # From a file: it does not call the address that it has the document from.
    document = tmp_path / "document.json"
    document.write_bytes(client.get("/openapi.json").data)
    command = [sys.executable, "-m", "schemathesis.cli", "run", str(document), f"--url={live.url}"]
    flags = ["--checks=all", "--phases=examples,coverage,fuzzing,stateful", "--mode=all"]
    bounds = ["--max-examples=20", "--seed=1", "--no-color", "--continue-on-failure"]
    bounds += ["--request-timeout=60"]  # the machine may stand still
    key = issue("lookup", "feedback", "sessions")["Authorization"]
    done = subprocess.run(
        [*command, *flags, *bounds],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SCHEMATHESIS_HOOKS": "tests.support.schemathesis_hooks",
            "TEST_DATABASE_URL": migrated[0],
            "TEST_SERVICE_KEY": key,
        },
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Tested: {len(CALLS) + 1}\n" in done.stdout  # a logout is two: GET and POST
    assert " WARNINGS " not in done.stdout
