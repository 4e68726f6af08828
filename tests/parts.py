"""Programs that are not Python's: found, or the test is skipped; in CI it fails."""

import os
import shutil

import pytest


def part(program: str) -> str:
    """Return the path of a program, or skip the test; with CI_PARTS=required fail it."""
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found:
        return found
    if os.environ.get("CI_PARTS") == "required":
        pytest.fail(f"{program} is not installed")
    pytest.skip(f"{program} is not installed")
