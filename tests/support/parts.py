"""Programs that are not Python's: found, or the test is skipped; in CI it fails."""

import os
import shutil
from pathlib import Path

import pytest


def part(program: str) -> str:
    """Return the path of a program, or skip the test; with CI_PARTS=required fail it."""
    debian = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")))
    places = [os.environ.get("PATH", ""), "/usr/sbin", "/sbin", *debian]
    found = shutil.which(program, path=":".join(places))
    if found:
        return found
    if os.environ.get("CI_PARTS") == "required":
        pytest.fail(f"{program} is not installed")
    pytest.skip(f"{program} is not installed")


def node_modules(folder: Path) -> None:
    """Skip the test where `npm ci` was not run in a folder; with CI_PARTS=required fail it."""
    if (folder / "node_modules").exists():
        return
    if os.environ.get("CI_PARTS") == "required":
        pytest.fail(f"npm ci was not run in {folder}")
    pytest.skip(f"npm ci was not run in {folder}")
