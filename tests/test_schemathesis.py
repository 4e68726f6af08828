"""schemathesis calls the live service with all that the document allows, and all it does not."""

import os
import subprocess
import sys

from app.config import ROOT


def test_the_service_does_what_the_document_says(live, migrated, issue, tmp_path):
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{live.url}/openapi.json"]
    flags = ["--checks=all", "--phases=examples,coverage,fuzzing,stateful", "--mode=all"]
    bounds = ["--max-examples=20", "--seed=1", "--no-color", "--continue-on-failure"]
    key = issue("lookup", "feedback", "sessions")["Authorization"]
    done = subprocess.run(
        [*command, *flags, *bounds],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SCHEMATHESIS_HOOKS": "tests.schemathesis_hooks",
            "TEST_DATABASE_URL": migrated[0],
            "TEST_SERVICE_KEY": key,
        },
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "14/14" not in done.stderr
    print(done.stdout)
