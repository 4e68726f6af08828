"""What every room may know: sizes, types, environments, and what text the database can hold."""

import json
import re
from datetime import UTC, datetime

# Bytes of UTF-8. An app name and a push token together fit one entry of a B-tree index (2,704).
MAX_PUSH_TOKEN = 2048
MAX_APP_NAME = 255
MAX_USER_ID = 255
MAX_DEVICE_ID = 64
# Characters of a moment in ISO 8601. Python's reader, given 16 MiB, keeps others waiting for half
# a second, and puts all of it into its error, four bytes a character and more.
MAX_MOMENT = 64

APN, GCM = "apn", "gcm"  # Apple's and Google's push service, as Rocket.Chat calls them
VOIP = "voip"  # Apple's again, for calls
TYPES = (APN, GCM)  # of a registration that an app asks for
KINDS = (*TYPES, VOIP)  # of one that is stored

PRODUCTION, SANDBOX = "production", "sandbox"  # APNs has two gateways, and tokens for each
ENVIRONMENTS = (PRODUCTION, SANDBOX)

_HEX = re.compile(r"[0-9a-fA-F]+\Z")


def is_text(value: object, limit: int) -> bool:
    """Tell whether a value is a string of 1 to `limit` bytes of UTF-8 that PostgreSQL can hold.

    It cannot hold NUL, and a lone surrogate has no UTF-8.
    """
    if not isinstance(value, str) or not value or len(value) > limit or "\0" in value:
        return False
    try:
        return len(value.encode()) <= limit
    except UnicodeEncodeError:
        return False


def normalize_apns_token(push_token: str) -> str:
    """Lower an all-hex APNs push token, the one kind in which case means nothing.

    Apple's API takes hex digits in either case; FCM's tokens are opaque and case-sensitive.
    """
    return push_token.lower() if _HEX.match(push_token) else push_token


def escape_invisible(line: str) -> str:
    r"""Return a line of JSON with `\u…` for what JSON leaves as it is and a terminal may obey.

    That is DEL, the C1 controls, and what changes the direction of text.
    """
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def iso(moment: datetime) -> str:
    """Write a moment as JavaScript does: UTC, three decimals, Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
