"""A service that sends: looks users up, sends to FCM and APNs, and reports their answers.

    sender.py OUTBOX add USER_ID TEXT    take a message for all devices of a user
    sender.py OUTBOX call USER_ID TEXT   take a call for those that ring: a VoIP push
    sender.py OUTBOX send                send what is due
    sender.py OUTBOX report              report the verdicts

OUTBOX is a file. Run `send` and `report` every minute; both may be stopped and run again.
"""

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
from outbox import Delivery, Outbox
from providers import Answer, Providers, retry_after

BATCH = 1000  # users of a lookup, and verdicts of a report: the registry's limit
AT_ONCE = 100  # pushes in flight; as many may be sent twice after a kill
TRIES = 4  # for a call of the registry


class Registry:
    """The calls for services that send."""

    def __init__(self, client: httpx.AsyncClient, url: str, key: str):
        self._client = client
        self._url = f"{url}/api/v1/"
        self._headers = {"authorization": f"Bearer {key}"}

    async def look_up(self, user_ids: list[str], **kind: str) -> list[dict[str, Any]]:
        """Return the registrations of up to 1,000 users; VoIP ones only with their type."""
        answer = await self._ask("push.tokens.lookup", userIds=user_ids, **kind)
        tokens: list[dict[str, Any]] = answer["tokens"]
        return tokens

    async def report(self, verdicts: list[dict[str, Any]]) -> Counter[str]:
        """Report up to 1,000 verdicts; returns how many were removed, kept, unknown.

        Those that the registry could not read are counted as invalid, and said on stderr: reported
        again they would be no better.
        """
        answer = await self._ask("push.tokens.feedback", results=verdicts)
        for one in answer.get("errors", ()):
            verdict = verdicts[one["index"]]
            known = {name: verdict[name] for name in verdict if name != "value"}  # not for a log
            print(f"invalid: {one['error']} {json.dumps(known)}", file=sys.stderr)
        names = ("removed", "kept", "unknown", "invalid")
        return Counter({name: answer[name] for name in names if name in answer})

    async def _ask(self, call: str, **fields: object) -> dict[str, Any]:
        for tries_left in reversed(range(TRIES)):
            try:
                url = self._url + call
                response = await self._client.post(url, json=fields, headers=self._headers)
            except httpx.TransportError as error:
                problem, wait = f"{type(error).__name__} {error}", 1.0
            else:
                if response.status_code == 200:
                    answer: dict[str, Any] = response.json()
                    return answer
                problem = f"{response.status_code} {response.text}"
                if response.status_code not in (429, 503):
                    break
                wait = retry_after(response) or 1.0
            if tries_left:
                await asyncio.sleep(wait * random.uniform(1, 1.5))
        raise SystemExit(f"{call}: {problem}")


class Sender:
    """One run of `send`."""

    def __init__(self, outbox: Outbox, registry: Registry, providers: Providers):
        self._outbox = outbox
        self._registry = registry
        self._providers = providers
        self._paused: dict[str, float] = {}  # by type of push token: paused until
        self._accepting: set[str] = set()  # apps whose credentials FCM has accepted in this run
        self._unfinished: set[int] = set()  # messages with deliveries that wait
        self.count: Counter[str] = Counter(sent=0, refused=0, waiting=0)

    async def run(self) -> None:
        """Send all messages that are due."""
        self._outbox.forget(())  # what is too old
        for users in self._outbox.users(BATCH):
            registrations = await self._registry.look_up(users)
            messages = self._outbox.messages(users)
            if any(is_call for *_, is_call in messages):
                registrations += await self._registry.look_up(users, type="voip")
            due = iter(self._due(messages, registrations))
            mismatches: list[tuple[Delivery, Answer]] = []
            while chunk := list(islice(due, AT_ONCE)):
                mismatches += await self._send(chunk)
            self._record(mismatches)  # last, when it is known whether the credentials are good
            self._outbox.forget({message_id for message_id, *_ in messages} - self._unfinished)

    def _due(
        self, messages: list[tuple[int, str, str, int]], registrations: list[dict[str, Any]]
    ) -> Iterator[Delivery]:
        """Yield the deliveries that are due now; count those that wait."""
        reachable: defaultdict[str, list[tuple[str, str, str]]] = defaultdict(list)
        for registration in registrations:
            ((type_, value),) = registration["token"].items()
            if self._providers.serves(type_, registration["appName"]):
                reachable[registration["userId"]].append((registration["appName"], type_, value))
        for message_id, user_id, text, is_call in messages:
            state = self._outbox.state(message_id)
            for app_name, type_, value in reachable[user_id]:
                if (type_ == "voip") != bool(is_call):
                    continue
                done, tries, not_before = state.get((app_name, value), (False, 0, 0.0))
                if done:
                    continue
                if max(not_before, self._paused.get(type_, 0.0)) <= time.time():
                    yield Delivery(message_id, text, app_name, type_, value, tries)
                else:
                    self.count["waiting"] += 1
                    self._unfinished.add(message_id)

    async def _send(self, chunk: list[Delivery]) -> list[tuple[Delivery, Answer]]:
        """Send a chunk and record the answers; return those with SENDER_ID_MISMATCH instead."""
        answers = await asyncio.gather(*map(self._providers.send, chunk))
        pairs = list(zip(chunk, answers, strict=True))
        mismatches = [pair for pair in pairs if pair[1].said.get("error") == "SENDER_ID_MISMATCH"]
        self._record(pair for pair in pairs if pair not in mismatches)
        return mismatches

    def _record(self, pairs: Iterable[tuple[Delivery, Answer]]) -> None:
        done: list[tuple[Delivery, dict[str, Any] | None]] = []
        again: dict[Delivery, float] = {}
        for delivery, answer in pairs:
            if answer.is_sent:
                self.count["sent"] += 1
                self._accepting |= {delivery.app_name} if answer.provider == "fcm" else set()
                done.append((delivery, None))
            elif answer.is_refused:
                self.count["refused"] += 1
                done.append((delivery, self._verdict(delivery, answer)))
            else:
                self.count["waiting"] += 1
                self._unfinished.add(delivery.message_id)
                again[delivery] = time.time() + answer.wait(delivery.tries)
                if answer.stops_all:
                    self._paused[delivery.type] = again[delivery]
        self._outbox.record(done, again)

    def _verdict(self, delivery: Delivery, answer: Answer) -> dict[str, Any]:
        """Return a verdict for the registry, with the provider's answer as it came."""
        verdict = {
            "appName": delivery.app_name,
            "value": delivery.value,
            "provider": answer.provider,
            "status": answer.status,
            "sentAt": datetime.fromtimestamp(answer.sent_at, UTC).isoformat(),
            **answer.said,
        }
        if answer.said.get("error") == "SENDER_ID_MISMATCH":
            # FCM accepted the credentials for other devices of the app, so they are good.
            verdict["credentialsValid"] = delivery.app_name in self._accepting
        return verdict


async def report(outbox: Outbox, registry: Registry) -> Counter[str]:
    """Report all verdicts; reporting one twice, after a kill, is harmless."""
    count: Counter[str] = Counter(removed=0, kept=0, unknown=0)
    while True:
        last, verdicts = outbox.verdicts(BATCH)
        if not verdicts:
            return count
        count.update(await registry.report(verdicts))
        outbox.reported(last)


def setting(name: str, default: str | None = None) -> str:
    """Return a variable of the environment; SystemExit with its name when it is not set."""
    value = os.environ.get(name, default)
    if not value:
        raise SystemExit(f"{name} is not set")
    return value


def settings() -> dict[str, Any]:
    """Return the settings of the providers, from the environment."""
    return {
        "fcm_url": setting("FCM_URL", "https://fcm.googleapis.com"),
        "fcm_access_token": setting("FCM_ACCESS_TOKEN"),
        "projects": json.loads(setting("FCM_PROJECTS")),
        "apns_url": setting("APNS_URL", "https://api.push.apple.com"),
        "apns_provider_token": setting("APNS_PROVIDER_TOKEN"),
        "topics": json.loads(setting("APNS_TOPICS")),
    }


async def work(outbox: Outbox, command: str) -> Counter[str]:
    """Run `send` or `report`."""
    async with httpx.AsyncClient(http2=True, timeout=httpx.Timeout(10, pool=None)) as client:
        registry = Registry(client, setting("REGISTRY_URL"), setting("REGISTRY_KEY"))
        with outbox.alone():
            if command == "report":
                return await report(outbox, registry)
            sender = Sender(outbox, registry, Providers(client, settings()))
            await sender.run()
            return sender.count


def main(arguments: list[str]) -> int:
    """Run one command, and print one JSON line."""
    match arguments:
        case [path, "add", user_id, text]:
            with closing(Outbox(Path(path))) as outbox:
                print(json.dumps({"message": outbox.add(user_id, text)}))
        case [path, "call", user_id, text]:
            with closing(Outbox(Path(path))) as outbox:
                print(json.dumps({"message": outbox.add(user_id, text, is_call=True)}))
        case [path, "send" | "report" as command]:
            with closing(Outbox(Path(path))) as outbox:
                print(json.dumps(asyncio.run(work(outbox, command))))
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
