"""Stand-ins for FCM (HTTP v1) and APNs (HTTP/2) on this machine; they send nothing.

    fake_providers.py FOLDER [PORT]

prints the variables that the sender needs, and then a line for each push. FOLDER/answers.json
says by push token what to answer; pushes to other push tokens are accepted:

    {"a-push-token": {"status": 404, "error": "UNREGISTERED"},
     "another": {"status": 410, "reason": "Unregistered", "timestamp": 1764000000000},
     "a-third": {"status": 429, "error": "QUOTA_EXCEEDED", "retryAfter": 30}}

Bodies are those of Google's "FCM error codes" and Apple's "Handling notification responses".
"""

import asyncio
import json
import signal
import sys
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import trustme
from hypercorn.asyncio import serve
from hypercorn.config import Config

# Libraries insist on the providers' names; who leads these here is served as well.
NAMES = ("fcm.googleapis.com", "api.push.apple.com", "api.development.push.apple.com")
FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"

# FCM's own code: google.rpc's status, message
FCM_ERRORS = {
    "UNREGISTERED": ("NOT_FOUND", "Requested entity was not found."),
    "NOT_FOUND": ("NOT_FOUND", "Requested entity was not found."),
    "INVALID_ARGUMENT": (
        "INVALID_ARGUMENT",
        "The registration token is not a valid FCM registration token",
    ),
    "SENDER_ID_MISMATCH": ("PERMISSION_DENIED", "SenderId mismatch"),
    "QUOTA_EXCEEDED": ("RESOURCE_EXHAUSTED", "Quota exceeded."),
    "UNAVAILABLE": ("UNAVAILABLE", "The service is currently unavailable."),
    "INTERNAL": ("INTERNAL", "Internal error encountered."),
}

Answer = tuple[int, dict[str, str], dict[str, Any]]


def fcm_error(status: int, code: str) -> dict[str, Any]:
    """Return the body of an error of FCM; `code` is one of its ErrorCode."""
    name, message = FCM_ERRORS[code]
    # A wrong project has none.
    details = [{"@type": FCM_ERROR, "errorCode": code}] if code != "NOT_FOUND" else []
    return {"error": {"code": status, "message": message, "status": name, "details": details}}


def fcm(told: dict[str, Any], headers: dict[str, str], project: str) -> Answer:
    """Answer a push to FCM."""
    if not headers.get("authorization", "").startswith("Bearer "):
        message = "Request is missing required authentication credential."
        return 401, {}, {"error": {"code": 401, "message": message, "status": "UNAUTHENTICATED"}}
    if told:
        return told["status"], {}, fcm_error(told["status"], told["error"])
    return 200, {}, {"name": f"projects/{project}/messages/0:{uuid.uuid4().hex}"}


def apns(told: dict[str, Any], headers: dict[str, str], body: bytes) -> Answer:
    """Answer a push to APNs."""
    id_ = {"apns-id": headers.get("apns-id", str(uuid.uuid4()).upper())}
    if not headers.get("authorization", "").lower().startswith("bearer "):
        return 403, id_, {"reason": "MissingProviderToken"}
    if "apns-topic" not in headers:
        return 400, id_, {"reason": "MissingTopic"}
    if len(body) > 4096:
        return 413, id_, {"reason": "PayloadTooLarge"}
    if told:
        said: dict[str, Any] = {
            name: told[name] for name in ("reason", "timestamp") if name in told
        }
        return told["status"], id_, said
    return 200, id_, {}


class Fake:
    """The application that the server runs."""

    def __init__(self, answers: Path):
        self._answers = answers

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return
        body = b""
        while (event := await receive())["type"] == "http.request":
            body += event["body"]
            if not event["more_body"]:
                break
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        status, more, said = self._answer(scope, headers, body)
        content = json.dumps(said).encode() if said else b""
        sent = {"content-length": str(len(content)), "content-type": "application/json", **more}
        raw = [(name.encode(), value.encode()) for name, value in sent.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": content})

    def _answer(self, scope: Any, headers: dict[str, str], body: bytes) -> Answer:
        told_all = json.loads(self._answers.read_text())
        match scope["raw_path"].decode().split("/"):
            case ["", "v1", "projects", project, "messages:send"]:
                value = json.loads(body)["message"]["token"]
                told = told_all.get(value, {})
                answer = fcm(told, headers, project)
            case ["", "3", "device", quoted] if scope["http_version"] == "2":
                value = unquote(quoted)
                told = told_all.get(value, {})
                answer = apns(told, headers, body)
            case _:
                return 404, {}, {"reason": "BadPath"}
        if "retryAfter" in told:
            answer[1]["retry-after"] = str(told["retryAfter"])
        kept = {name: headers[name] for name in headers if name.startswith("apns-")}
        line = {"status": answer[0], "value": value, "http": scope["http_version"], **kept}
        print(json.dumps(line), flush=True)
        return answer


async def main(folder: Path, port: int) -> None:
    """Serve until SIGINT or SIGTERM, with a certificate signed by FOLDER/ca.pem."""
    folder.mkdir(exist_ok=True)
    answers = folder / "answers.json"
    if not answers.exists():
        answers.write_text("{}")
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", *NAMES)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")

    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.certfile, config.keyfile = str(folder / "cert.pem"), str(folder / "key.pem")
    config.loglevel = "WARNING"
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    url = f"https://127.0.0.1:{port}"
    print(f"export FCM_URL={url} APNS_URL={url} SSL_CERT_FILE={folder.resolve()}/ca.pem")
    print("export FCM_ACCESS_TOKEN=fake APNS_PROVIDER_TOKEN=fake", flush=True)
    await serve(Fake(answers), config, shutdown_trigger=stopped.wait)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int((sys.argv[2:] or ["8443"])[0])))
