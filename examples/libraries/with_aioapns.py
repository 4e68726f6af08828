"""Sends by aioapns, and reports its results.

with_aioapns.py APP PUSH_TOKEN…
"""

import asyncio
import json
import os
import sys
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aioapns import APNs, NotificationRequest

SETTINGS = ("KEY_FILE", "KEY_ID", "TEAM_ID", "TOPIC")

app_name, *push_tokens = sys.argv[1:]


async def send() -> list[dict[str, Any]]:
    """Send to all push tokens; return the verdicts."""
    path, key_id, team, topic = (os.environ[f"APNS_{name}"] for name in SETTINGS)
    client = APNs(key=Path(path).read_text(), key_id=key_id, team_id=team, topic=topic)
    verdicts = []
    for value in push_tokens:
        sent_at = datetime.now(UTC).isoformat()
        request = NotificationRequest(value, {"aps": {"alert": "Hello"}})
        result = await client.send_notification(request)
        verdict: dict[str, Any] = {
            "appName": app_name,
            "value": value,
            "provider": "apns",
            "sentAt": sent_at,
        }
        # glue
        verdict["status"], verdict["reason"] = result.status, result.description
        verdict["timestamp"] = result.timestamp
        # end
        verdicts.append(verdict)
    return verdicts


report = urllib.request.Request(
    os.environ["REGISTRY_URL"] + "/api/v1/push.tokens.feedback",
    json.dumps({"results": asyncio.run(send()), "each": True}).encode(),
    {
        "Authorization": f"Bearer {os.environ['REGISTRY_KEY']}",
        "Content-Type": "application/json",
    },
)
with urllib.request.urlopen(report) as said:
    print(said.read().decode())
