"""Says what a file is that is no export, and how to make one of it."""

import re
import struct
from collections.abc import Mapping
from typing import Any

PIPE = "pipe that into this command, with - for FILE"
CONVERT = "docs/import.md has a line that converts it"

MAGIC = {
    b"PK\x03\x04": ("a zip archive", "unzip -p FILE"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "zstd -dc FILE"),
    b"BZh": ("compressed by bzip2", "bzip2 -dc FILE"),
    b"\xfd7zXZ\x00": ("compressed by xz", "xz -dc FILE"),
}
ARCHIVE = struct.pack("<I", 0x8199E26D)  # how `mongodump --archive` begins
UTF_16 = re.compile(rb"\xff\xfe|\xfe\xff|[{\[]\x00[^\x00]|\x00[{\[]")  # its mark, or a bracket
LARGEST_BSON = 17 * 1024 * 1024  # bytes of a document
BSON_TYPES = {*range(1, 0x14), 0x7F, 0xFF}
HEADER = re.compile(r'"?[\w.$ -]+"?([,;\t]"?[\w.$ -]+"?)+')
SNS = "an endpoint list of Amazon SNS"


def of_bytes(head: bytes) -> str | None:
    """Say what a file with these first bytes is, and how to read it; None for what may be JSON."""
    for magic, (what, command) in MAGIC.items():
        if head.startswith(magic):
            return f"{what}: `{command}` unpacks it, {PIPE}"
    if head.startswith(ARCHIVE):
        return "an archive of mongodump: `mongorestore --archive=FILE` it, and use mongoexport"
    if UTF_16.match(head):
        return f"text in UTF-16: `iconv -f UTF-16 -t UTF-8 FILE` makes UTF-8, {PIPE}"
    if _is_bson(head):
        return f"BSON, as mongodump writes it: `bsondump FILE` prints it as JSON, {PIPE}"
    if b"\0" in head[:1000]:
        return "a binary file, and not what mongoexport prints"
    return _of_text(head.decode(errors="replace"))


def _is_bson(head: bytes) -> bool:
    """Tell whether a document of BSON begins here: length, type and name of its first field."""
    if len(head) < 5 or not 5 <= struct.unpack_from("<I", head)[0] <= LARGEST_BSON:
        return False
    return head[4] in BSON_TYPES and b"\0" in head[5:300]


def _of_text(text: str) -> str | None:
    lines = text.lstrip().splitlines()
    if lines and lines[0].strip() == "{":
        if '"EndpointArn"' in text:
            return f"{SNS}: {CONVERT}"
        return f"JSON with many lines for a document: `jq -c . FILE` makes one of each, {PIPE}"
    if not any(line.startswith(("{", "[")) for line in lines) and HEADER.fullmatch(
        "".join(lines[:1])
    ):
        return f"a table such as CSV: use mongoexport without --type, or {CONVERT}"
    return None


def of_document(document: Mapping[str, Any]) -> str | None:
    """Say what a document is that is no row of the import; None where that is not known."""
    if "Endpoints" in document or "EndpointArn" in document:
        return f"{SNS}: {CONVERT}"
    if str(document.get("model")).startswith("push_notifications."):
        return f"a dump of django-push-notifications: {CONVERT}"
    if "deviceToken" in document:
        return f"Parse's _Installation: {CONVERT}"
    if "token" in document or "tokenValue" in document:
        return "Rocket.Chat's push tokens: `push-tokens import FILE` takes them"
    if {"services", "username", "emails"} & document.keys():
        return "Rocket.Chat's users: `sessions import FILE` takes their sessions"
    return None
