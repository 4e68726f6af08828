"""Sends by firebase-admin, and reports what it raises.

with_firebase_admin.py APP PUSH_TOKEN…
"""

import json
import os
import sys
import urllib.request
from datetime import UTC, datetime
from typing import Any

import firebase_admin
from firebase_admin import messaging
from google.oauth2.credentials import Credentials

app_name, *push_tokens = sys.argv[1:]
# Usually `credentials.Certificate("service-account.json")`.
credential = Credentials(os.environ["FCM_ACCESS_TOKEN"])  # type: ignore[no-untyped-call]
firebase_admin.initialize_app(credential, {"projectId": os.environ["FIREBASE_PROJECT"]})

verdicts = []
sent_at = datetime.now(UTC).isoformat()
hello = messaging.Notification(body="Hello")
messages = [messaging.Message(token=value, notification=hello) for value in push_tokens]
for value, sent in zip(push_tokens, messaging.send_each(messages).responses, strict=True):
    if sent.exception:
        verdict: dict[str, Any] = {
            "appName": app_name,
            "value": value,
            "provider": "fcm",
            "sentAt": sent_at,
        }
        # glue
        answer = sent.exception.http_response
        verdict["status"] = getattr(answer, "status_code", 0)
        verdict["response"] = getattr(answer, "text", "")
        # end
        verdicts.append(verdict)

report = urllib.request.Request(
    os.environ["REGISTRY_URL"] + "/api/v1/push.tokens.feedback",
    json.dumps({"results": verdicts, "each": True}).encode(),
    {
        "Authorization": f"Bearer {os.environ['REGISTRY_KEY']}",
        "Content-Type": "application/json",
    },
)
with urllib.request.urlopen(report) as said:
    print(said.read().decode())
