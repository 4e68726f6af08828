"""The code of the release before devices had names of their own, to serve beside this one."""

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from app.config import ROOT

ADDED = "migrations/versions/0008_device_id.py"


def git(*arguments: str) -> bytes:
    """Run git on this checkout; return what it prints."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout


def previous_release(folder: Path) -> tuple[Path, str]:
    """Unpack the checkout as it was before the revision came, and install what it locks.

    Returns its folder and its Python. It needs git's history and the package index; the packages
    are kept under instance/ between runs.
    """
    if not (ROOT / ".git").exists() or git("rev-parse", "--is-shallow-repository") == b"true\n":
        pytest.skip("the previous release is taken from git's history: it needs a full clone")
    commits = git("log", "--diff-filter=A", "--format=%H", "--", ADDED).decode().split()
    before = git("rev-parse", f"{commits[-1]}^" if commits else "HEAD").decode().strip()
    release = folder / "previous"
    with tarfile.open(fileobj=io.BytesIO(git("archive", before))) as archive:
        archive.extractall(release, filter="data")
    assert not (release / ADDED).exists()
    return release, _python(release, ROOT / "instance" / f"release-{before[:12]}")


def _python(release: Path, venv: Path) -> str:
    """Return a Python with the packages that a release locks."""
    python = venv / "bin" / "python"
    if not (venv / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--require-hashes", "-r"]
        done = subprocess.run([*install, release / "requirements.txt"], check=False)
        if done.returncode and os.environ.get("CI_PARTS") != "required":
            pytest.skip("the previous release's packages cannot be installed")
        assert done.returncode == 0
        (venv / "complete").touch()
    return str(python)
