"""The calls of an app, in Python's standard library alone."""

import json
import os
import random
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Any

Answer = dict[str, Any]
TRIES = 5
LONGEST_WAIT = 60  # seconds


class SignedOutError(Exception):
    """The session has ended: sign in again, then register again."""


class Registry:
    """The registry, for one session.

    A call raises SignedOutError on 401, and urllib's HTTPError on any other answer that is not
    200. On 429 and 503 it waits and tries again first.
    """

    def __init__(self, url: str, user_id: str, auth_token: str):
        self._url = f"{url}/api/v1/"
        self._headers = {"X-User-Id": user_id, "X-Auth-Token": auth_token}

    def register(self, type_: str, value: str, app_name: str, id_: str | None = None) -> Answer:
        """Register at every start of the app; `type_` is `apn` or `gcm`.

        `id_` names the device, the same at each start: a UUID that the app keeps, or the `_id` of
        the first answer. When the push token changes, the new one takes the place of the old one.
        """
        fields = {"type": type_, "value": value, "appName": app_name}
        if id_:
            fields["id"] = id_
        answer: Answer = self._call("POST", "push.token", fields)["result"]
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
        self._call("POST", "logout")

    def _call(self, method: str, path: str, fields: dict[str, str] | None = None) -> Answer:
        headers = {**self._headers, "Content-Type": "application/json"}
        body = None if fields is None else json.dumps(fields).encode()
        request = urllib.request.Request(self._url + path, body, headers, method=method)
        for tries_left in reversed(range(TRIES)):
            try:
                with urllib.request.urlopen(request, timeout=15) as answer:
                    loaded: Answer = json.load(answer)
                    return loaded
            except urllib.error.HTTPError as error:
                if error.code == 401:
                    raise SignedOutError from None
                if error.code not in (429, 503) or not tries_left:
                    raise
                told = error.headers.get("Retry-After", "")
                wait = min(int(told) if told.isdecimal() else 5, LONGEST_WAIT)
                # All phones got the same Retry-After: jitter keeps them from returning at once.
                time.sleep(wait * random.uniform(1, 1.5))
        raise AssertionError("the last try returns or raises")


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
