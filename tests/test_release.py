"""`make release` and `make wheel`: what they refuse, what they write, what an SBOM has."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from app.config import ROOT
from app.version import VERSION

BIN = Path(sys.executable).parent


@pytest.fixture
def clone(tmp_path):
    """A checkout of its own with what this one has, and the same virtual environment."""
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    folder = tmp_path / "clone"
    for name in filter(None, files.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(BIN.parent)
    (folder / "instance").mkdir()
    for command in (("init", "--quiet", "-b", "main"), ("add", "."), ("commit", "-qm", "All")):
        git(folder, *command)
    return folder


def git(folder: Path, *arguments: str) -> str:
    name = ("-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "core.autocrlf=false")
    done = subprocess.run(
        ["git", *name, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def release(folder: Path, version: str, *, known: bool = True) -> subprocess.CompletedProcess[str]:
    """Run `make release`'s script, as somebody whom git knows or not."""
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(folder.parent)}
    if known:
        environ |= dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "T")
        environ |= dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), "t@example.org")
    command = [".ci/release", version]
    return subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, check=False
    )


def passed(folder: Path) -> None:
    """Have the checks passed on the tree, as .ci/run writes it down."""
    (folder / "instance" / "checked").write_text(git(folder, "rev-parse", "HEAD^{tree}") + "\n")


def test_a_release_is_refused_until_all_is_as_it_should_be(clone):
    def refused(version: str = "9.0.0") -> str:
        done = release(clone, version)
        assert (done.returncode, done.stdout) == (1, "")
        return done.stderr

    assert "say which" in refused("")
    assert "say which" in refused("9.0")
    assert "the checks have not passed" in refused()
    passed(clone)
    assert "does not come after 0.1.0" in refused("0.1.0")
    (clone / "README.md").write_text("changed")
    assert "not clean" in refused()
    git(clone, "commit", "-qam", "Changed")
    assert "the checks have not passed" in refused()
    changes = (clone / "CHANGELOG.md").read_text()
    (clone / "CHANGELOG.md").write_text(
        re.sub(r"(## \[Unreleased\]\n).*?(?=## \[0)", r"\1\n", changes, flags=re.S)
    )
    git(clone, "commit", "-qam", "No notes")
    assert "nothing under [Unreleased]" in refused()
    assert git(clone, "tag") == ""


def test_a_release_of_nobody_is_refused_before_anything_is_written(clone):
    git(clone, "config", "user.useConfigOnly", "true")
    passed(clone)
    done = release(clone, "9.0.0", known=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "not released: git does not know who you are" in done.stderr
    assert git(clone, "status", "--porcelain") == ""


def test_a_release_is_written_tagged_and_built(clone):
    passed(clone)
    done = release(clone, "9.1.0")
    assert done.returncode == 0, done.stderr
    assert git(clone, "describe") == "v9.1.0"
    assert git(clone, "status", "--porcelain") == ""
    changes = (clone / "CHANGELOG.md").read_text()
    assert re.search(r"^## \[Unreleased\]\n\n## \[9\.1\.0\] - \d{4}-\d\d-\d\d\n", changes, re.M)
    assert 'VERSION = "9.1.0"' in (clone / "app" / "version.py").read_text()
    built = {path.name for path in (clone / "dist").iterdir()}
    wheel = "push_token_registry-9.1.0-py3-none-any.whl"
    assert built == {wheel, "requirements.txt", "sbom.json"}
    lock = (clone / "dist" / "requirements.txt").read_text()
    assert re.search(r"^push-token-registry==9\.1\.0 --hash=sha256:[0-9a-f]{64}$", lock, re.M)
    bom = (clone / "dist" / "sbom.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bom) is None
    document = json.loads(bom)
    pinned = dict(re.findall(r"^([\w.-]+)(?:\[.*?\])?==([^ ]+)", lock, re.M))
    listed = {one["name"]: one["version"] for one in document["components"]}
    assert listed | {"push-token-registry": "9.1.0"} == pinned
    needs = {one["ref"]: one["dependsOn"] for one in document["dependencies"]}
    assert len(needs) == len(pinned)
    assert any("/werkzeug@" in one for one in needs[f"pkg:pypi/flask@{pinned['flask']}"])


def test_the_changelog_has_each_release_once_and_the_newest_first():
    text = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", text, re.M)
    assert headings[0] == ("Unreleased", "")
    assert headings[-1][0] == "0.1.0"
    numbers = [tuple(map(int, name.split("."))) for name, _ in headings[1:]]
    assert numbers == sorted(set(numbers), reverse=True)
    assert all(date for _, date in headings[1:])
    kinds = set(re.findall(r"^### (.+)$", text, re.M))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_version_is_of_the_newest_release_or_on_the_way_to_the_next():
    text = (ROOT / "CHANGELOG.md").read_text()
    newest = re.findall(r"^## \[(\d.+?)\]", text, re.M)[0]
    assert newest == VERSION or re.fullmatch(r"\d+\.\d+\.0\.dev0", VERSION)
