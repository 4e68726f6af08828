"""The calls of an app, in Python's standard library alone: copy this file.

`Device` is what an app needs; `Registry` makes the calls.
"""

import contextlib
import http.client
import json
import os
import random
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

Answer = dict[str, Any]
TRIES = 6
TRIES_AT_SIGN_OUT = 2  # the user waits for it
LONGEST_WAIT = 60  # seconds
# Too many requests, and what a proxy or the registry says of this moment. Every call may be
# repeated.
LATER = {429, 502, 503, 504}


class SignedOutError(Exception):
    """The session has ended: sign in again, then register again."""


class Registry:
    """The registry, for one session.

    A call raises SignedOutError on 401, and urllib's HTTPError on any other answer that is not
    200. Where a later try can help it waits and tries again first; URLError: no try got an answer.
    """

    def __init__(self, url: str, user_id: str, auth_token: str):
        self._url = f"{url}/api/v1/"
        self._headers = {"X-User-Id": user_id, "X-Auth-Token": auth_token}

    def register(
        self,
        type_: str,
        value: str,
        app_name: str,
        id_: str | None = None,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> Answer:
        """Register at every start of the app; `type_` is `apn` or `gcm`.

        `id_` names the device, the same at each start: `device_id`, or the `_id` of the first
        answer. When the push token changes, the new one takes the place of the old one. Where
        `is_wanted` says no, there is no further try.
        """
        fields = {"type": type_, "value": value, "appName": app_name}
        if id_:
            fields["id"] = id_
        answer: Answer = self._call("POST", "push.token", fields, is_wanted=is_wanted)["result"]
        return answer

    def list(self) -> Sequence[Answer]:
        """Return the user's own registrations, the latest renewed first."""
        tokens: Sequence[Answer] = self._call("GET", "push.token")["tokens"]
        return tokens

    def remove(self, value: str) -> bool:
        """Stop pushes to this push token; False when none of the user's was there."""
        try:
            # Not in the body: some proxies strip the body of a DELETE.
            self._call("DELETE", "push.token?" + urllib.parse.urlencode({"token": value}))
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return False
        return True

    def log_out(self) -> None:
        """End the session and its registrations."""
        self._call("POST", "logout", tries=TRIES_AT_SIGN_OUT)

    def _call(
        self,
        method: str,
        path: str,
        fields: dict[str, str] | None = None,
        tries: int = TRIES,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> Answer:
        headers = {**self._headers, "Content-Type": "application/json"}
        body = None if fields is None else json.dumps(fields).encode()
        for tried in range(1, tries + 1):
            request = urllib.request.Request(self._url + path, body, headers, method=method)
            try:
                with urllib.request.urlopen(request, timeout=15) as answer:
                    loaded: Answer = json.load(answer)
                    return loaded
            except urllib.error.HTTPError as error:
                if error.code == 401:
                    raise SignedOutError from None
                if error.code not in LATER or tried == tries or not is_wanted():
                    raise
                told = error.headers.get("Retry-After")
            except (OSError, http.client.HTTPException, ValueError):  # no answer, or half of one
                if tried == tries or not is_wanted():
                    raise
                told = None
            time.sleep(wait(told, tried))
            if not is_wanted():
                raise SupersededError
        raise AssertionError("the last try returns or raises")


class SupersededError(Exception):
    """A registration is not tried again: a later push token came, or the user signs out."""


def wait(told: str | None, tried: int) -> float:
    """Return the seconds before the next try: as Retry-After says, else 1, 2, 4 and so on.

    Many phones get the same Retry-After: a random part keeps them from returning at once.
    """
    seconds = 2.0 ** (tried - 1)
    if told and told.isdecimal():
        seconds = float(told)
    elif told:
        with contextlib.suppress(ValueError):  # no date either
            seconds = parsedate_to_datetime(told).timestamp() - time.time()
    return min(max(seconds, 0), LONGEST_WAIT) * random.uniform(1, 1.5)


class Device:
    """This app on this device, while one user is signed in."""

    def __init__(self, registry: Registry, app_name: str, id_: str):
        self._registry = registry
        self._app_name = app_name
        self._id = id_
        self._turn = threading.Lock()
        self._counting = threading.Lock()
        self._latest = 0
        self._is_signed_out = False

    def register(self, type_: str, value: str) -> Answer | None:
        """Register at every start, and whenever a push token comes; from any thread.

        One registration is made at a time, so that an old push token never arrives after a new
        one. None: a later push token came meanwhile, or the user signed out.
        """
        with self._counting:
            self._latest += 1
            mine = self._latest

        def is_wanted() -> bool:
            return mine == self._latest and not self._is_signed_out

        with self._turn:
            if not is_wanted():
                return None
            try:
                return self._registry.register(type_, value, self._app_name, self._id, is_wanted)
            except (
                SupersededError,
                SignedOutError,
                OSError,
                http.client.HTTPException,
                ValueError,
            ):
                if is_wanted():
                    raise
                return None

    def sign_out(self, sign_out_of_provider: Callable[[], None]) -> bool:
        """Sign the user out: the registry first, as the session's auth token is still good.

        A registration that is under way needs no waiting for: the registry takes it with the
        session, or refuses it. False: the registry could not be told. Then delete the push token
        on the device, so that nothing reaches it any more.
        """
        self._is_signed_out = True
        try:
            self._registry.log_out()
            is_told = True
        except SignedOutError:
            is_told = True  # it had ended, or the answer to the first try was lost
        except (OSError, http.client.HTTPException, ValueError):
            is_told = False
        sign_out_of_provider()
        return is_told


def device_id(path: Path) -> str:
    """Return the device's name from this file of the app, which is made at the first call."""
    kept = path.read_text() if path.exists() else ""
    if not kept:
        kept = str(uuid.uuid4())
        path.write_text(kept)
    return kept


def main(call: str, *arguments: str) -> int:
    """Make one call and print the answer; 4 when the session has ended."""
    environ = os.environ
    registry = Registry(environ["REGISTRY_URL"], environ["USER_ID"], environ["AUTH_TOKEN"])
    try:
        answer = getattr(registry, call)(*arguments)
    except SignedOutError:
        print("signed out: sign in again, then register again", file=sys.stderr)
        return 4
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
