"""What the tests of imports share."""

import json

import pytest


@pytest.fixture
def run(runner, tmp_path):
    """A function that imports bytes and returns (summary, result, rejects)."""

    def run(data: bytes, *options: str, stdin: bool = False):
        path, rejects = tmp_path / "export.json", tmp_path / "rejects"
        path.write_bytes(data)
        where = "-" if stdin else str(path)
        result = runner.invoke(
            args=["push-tokens", "import", where, "--rejects", str(rejects), *options],
            input=data if stdin else None,
        )
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        summary = json.loads(result.stdout)
        parts = ("inserted", "updated", "unchanged", "rejected")
        assert summary["read"] == sum(summary[name] for name in parts)
        assert oct(rejects.stat().st_mode)[-3:] == "600"
        return summary, result, [json.loads(line) for line in rejects.read_bytes().splitlines()]

    return run
