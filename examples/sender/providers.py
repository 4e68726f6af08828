"""Sends one push to FCM (HTTP v1) or APNs (HTTP/2), and says what the answer means."""

import email.utils
import random
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
from outbox import Delivery

FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
BAD_TOKEN = "The registration token is not a valid FCM registration token"  # FCM, error codes
# A provider closes a connection now and then, with pushes on it: try once more, on a new one.
CLOSED = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)
LONGEST_WAIT = 3600.0  # seconds


@dataclass(frozen=True)
class Answer:
    """What a provider said; the status is 0 when nothing came back."""

    provider: str
    status: int
    sent_at: float
    said: Mapping[str, Any]  # the part of the verdict that is the provider's
    told: float | None = None  # seconds of Retry-After

    @property
    def is_sent(self) -> bool:
        """Whether the provider accepted the push."""
        return self.status == 200

    @property
    def is_refused(self) -> bool:
        """Whether the same push will never be accepted; other failures are tried again.

        So are mistakes of the sender, such as an expired access token (401, APNs' 403): the
        message is sent once they are corrected.
        """
        if self.provider == "apns":
            return self.status in (400, 410, 413)
        dead = (404, "UNREGISTERED"), (403, "SENDER_ID_MISMATCH")
        return self.status == 400 or (self.status, self.said.get("error")) in dead

    @property
    def stops_all(self) -> bool:
        """Whether the next push would fail alike; APNs' 429 concerns one device only."""
        return not (
            self.is_sent or self.is_refused or (self.provider, self.status) == ("apns", 429)
        )

    def wait(self, tries: int) -> float:
        """Return seconds to wait: as told; else a minute (FCM's 429), or longer each time."""
        if self.told is not None:
            return self.told
        growing = 60.0 if self.status == 429 else 10.0 * 2 ** min(tries, 10)
        return min(growing, LONGEST_WAIT) * random.uniform(1, 1.5)


class Providers:
    """Both providers, over one client that speaks HTTP/2; sends for configured apps only.

    Apps choose their names, so a name never goes into a header or a path: `topics` and `projects`
    say which APNs topic and which Firebase project an app has.
    """

    def __init__(self, client: httpx.AsyncClient, settings: Mapping[str, Any]):
        self._client = client
        self._settings = settings

    def serves(self, type_: str, app_name: str) -> bool:
        """Tell whether we send for this app."""
        return app_name in self._settings["projects" if type_ == "gcm" else "topics"]

    async def send(self, delivery: Delivery) -> Answer:
        """Send one push and return the answer; a provider's failure is an answer too."""
        provider = "fcm" if delivery.type == "gcm" else "apns"
        sent_at = time.time()
        request = self._apns(delivery) if provider == "apns" else self._fcm(delivery)
        try:
            try:
                response = await self._client.send(request)
            except CLOSED:
                response = await self._client.send(request)
        except httpx.TransportError as error:
            return Answer(provider, 0, sent_at, {"error": type(error).__name__})
        said = _apns_said(response) if provider == "apns" else _fcm_said(response)
        return Answer(provider, response.status_code, sent_at, said, retry_after(response))

    def _fcm(self, delivery: Delivery) -> httpx.Request:
        project = self._settings["projects"][delivery.app_name]
        message = {
            "token": delivery.value,
            "notification": {"body": delivery.text},
            # A message that is sent twice is shown once.
            "android": {"notification": {"tag": str(delivery.message_id)}},
        }
        return self._client.build_request(
            "POST",
            f"{self._settings['fcm_url']}/v1/projects/{project}/messages:send",
            headers={"authorization": f"Bearer {self._settings['fcm_access_token']}"},
            json={"message": message},
        )

    def _apns(self, delivery: Delivery) -> httpx.Request:
        name = f"{delivery.message_id} {delivery.app_name} {delivery.value}"
        topic, push_type = self._settings["topics"][delivery.app_name], "alert"
        if delivery.type == "voip":
            topic, push_type = f"{topic}.voip", "voip"
        return self._client.build_request(
            "POST",
            f"{self._settings['apns_url']}/3/device/{quote(delivery.value, safe='')}",
            headers={
                "authorization": f"bearer {self._settings['apns_provider_token']}",
                "apns-topic": topic,
                "apns-push-type": push_type,
                "apns-id": str(uuid.uuid5(uuid.NAMESPACE_URL, name)),
                # A message that is sent twice is shown once.
                "apns-collapse-id": str(delivery.message_id),
            },
            json={"aps": {"alert": {"body": delivery.text}}},
        )


def _apns_said(response: httpx.Response) -> dict[str, Any]:
    body = _object(response)
    kinds = {"reason": str, "timestamp": int}
    return {name: body[name] for name, kind in kinds.items() if isinstance(body.get(name), kind)}


def _fcm_said(response: httpx.Response) -> dict[str, Any]:
    """Return FCM's own error code, and whether INVALID_ARGUMENT is about the push token.

    It is when FCM's message says so, or when FCM names no other field; else the payload may be
    wrong, and the registry keeps the registration.
    """
    error = _object(response).get("error", {})
    details = {detail.get("@type"): detail for detail in error.get("details", [])}
    code = details.get(FCM_ERROR, {}).get("errorCode")
    said = {"error": code or error["status"]} if code or "status" in error else {}
    if code == "INVALID_ARGUMENT":
        violations = details.get(BAD_REQUEST, {}).get("fieldViolations", [])
        fields = {violation.get("field") for violation in violations}
        said["payloadValid"] = fields == {"message.token"} or error.get("message") == BAD_TOKEN
    return said


def _object(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:  # a proxy's page
        return {}
    return body if isinstance(body, dict) else {}


def retry_after(response: httpx.Response) -> float | None:
    """Return the seconds that Retry-After says, as a number or as a date; None without one."""
    told = response.headers.get("retry-after", "")
    try:
        seconds = float(told) if told.isdecimal() else _until(told)
    except ValueError:
        return None
    return min(max(seconds, 0.0), LONGEST_WAIT)


def _until(date: str) -> float:
    return email.utils.parsedate_to_datetime(date).timestamp() - time.time()
