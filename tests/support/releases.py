"""The code of the release before revision 0008, to serve beside this one."""

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from app.config import ROOT

ADDED = "migrations/versions/0008_device_id.py"


def git(*arguments: str) -> bytes:
    """Run git on this checkout; return what it prints."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout


def previous_release(folder: Path) -> Path:
    """Unpack the checkout as it was before the revision came; it needs the history."""
    if not (ROOT / ".git").exists() or git("rev-parse", "--is-shallow-repository") == b"true\n":
        pytest.skip("the previous release is taken from git's history: it needs a full clone")
    commits = git("log", "--diff-filter=A", "--format=%H", "--", ADDED).decode().split()
    before = f"{commits[-1]}^" if commits else "HEAD"  # HEAD: it is not committed yet
    release = folder / "previous"
    with tarfile.open(fileobj=io.BytesIO(git("archive", before))) as archive:
        archive.extractall(release, filter="data")
    assert not (release / ADDED).exists()
    return release
