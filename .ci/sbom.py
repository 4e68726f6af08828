#!/usr/bin/env python3
"""Prints the SBOM of the wheel, in CycloneDX 1.6: each package of the lock file and its hashes.

    .ci/sbom.py requirements.txt VERSION WHEEL

What needs what is read from the comments `# via …` that uv writes.
"""

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

NAME = "push-token-registry"
PINNED = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^ ;\\]+)(?: ; ([^\\]+?))? \\$", re.M)


def _purl(name: str, version: str) -> str:
    return f"pkg:pypi/{name}@{version}"


class Package(NamedTuple):
    """A package of the lock file."""

    version: str
    marker: str | None
    hashes: list[str]  # SHA-256 of its files, one a platform
    needed_by: list[str]


def packages(lock: str) -> dict[str, Package]:
    """Return the packages of a lock file by name."""
    found = {}
    for text in re.split(r"\n(?=[A-Za-z0-9])", lock):
        if pinned := PINNED.match(text):
            name, version, marker = pinned.groups()
            hashes = re.findall(r"--hash=sha256:([0-9a-f]{64})", text)
            needed_by = re.findall(r"^ +#(?: via)? +(?!via)([\w.-]+)", text, re.M)
            found[name] = Package(version, marker, hashes, needed_by)
    return found


def _component(name: str, package: Package) -> dict[str, object]:
    markers = [{"name": "lock:marker", "value": package.marker}] if package.marker else []
    hashes = [{"name": "lock:sha256", "value": one} for one in package.hashes]
    return {
        "type": "library",
        "bom-ref": _purl(name, package.version),
        "name": name,
        "version": package.version,
        "purl": _purl(name, package.version),
        "properties": markers + hashes,
    }


def bom(lock: str, version: str, wheel: Path) -> dict[str, object]:
    """Return the document."""
    locked = packages(lock)
    refs = {NAME: _purl(NAME, version)}
    refs |= {name: _purl(name, one.version) for name, one in locked.items()}
    needs: dict[str, list[str]] = {name: [] for name in refs}
    for name, package in locked.items():
        for one in package.needed_by:
            needs[one].append(refs[name])
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": refs[NAME],
                "name": NAME,
                "version": version,
                "purl": refs[NAME],
                "hashes": [
                    {"alg": "SHA-256", "content": hashlib.sha256(wheel.read_bytes()).hexdigest()}
                ],
            }
        },
        "components": [_component(name, one) for name, one in locked.items()],
        "dependencies": [
            {"ref": refs[name], "dependsOn": sorted(set(on))} for name, on in needs.items()
        ],
    }


if __name__ == "__main__":
    lock, version, wheel = sys.argv[1:]
    print(json.dumps(bom(Path(lock).read_text(), version, Path(wheel)), indent=1))
