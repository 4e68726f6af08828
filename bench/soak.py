"""`make soak`: registrations while their connections are killed; nothing acknowledged is lost.

Half of the registrations name their device, one in ten of these with a new push token. Clients
keep what was answered with 200. Every second all of the service's connections to PostgreSQL are
terminated. At the end the table must have every registration as its last answer said it, or
later: an attempt that was answered with an error may have been stored or not. And of each device
it must have one.
"""

import argparse
import http.client
import json
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import psycopg

from app.config import ROOT
from app.database import embedded
from app.limits import iso
from bench import rig
from tests.support.factories import Caller
from tests.support.load import APP, PATH, Client, Load

KILL = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE application_name = 'push-token-registry' AND pid <> pg_backend_pid()
"""
DEVICES = 1000  # of a client
NAMED = 0.5  # share of registrations that name their device


@dataclass
class Device:
    """One that sends its id: what it sent, and what of that was answered."""

    name: str
    value: str = ""  # the last that was acknowledged
    updated_at: str = ""  # as that answer said
    sent: set[str] = field(default_factory=set)
    unsure: set[str] = field(default_factory=set)  # sent, and answered with an error

    def is_lost(self, stored: dict[str, str]) -> bool:
        """Say if something is wrong with what is stored, by push token: its `updatedAt`."""
        if not self.value:
            return False
        found = self.sent & stored.keys()
        return (
            len(found) != 1
            or not found <= {self.value} | self.unsure
            or stored[found.pop()] < self.updated_at
        )


class SoakClient(Client):
    """One after the other: registrations without an id, and of devices."""

    def __init__(self, address: str, caller: Caller):
        super().__init__(address, caller, pace=0)
        self.devices = [Device(f"{caller.user_id}-device-{n}") for n in range(DEVICES)]

    def register(self, connection: http.client.HTTPConnection) -> object:
        """Register once; return the status or the name of the exception."""
        if random.random() >= NAMED:
            return super().register(connection)
        device = random.choice(self.devices)
        value = device.value
        if not value or random.random() < rig.ROTATED:
            value = f"{device.name}-{len(device.sent)}"
        device.sent.add(value)
        fields = {"type": "gcm", "value": value, "appName": APP, "id": device.name}
        headers = {"Content-Type": "application/json", **self.caller.headers}
        try:
            connection.request("POST", PATH, json.dumps(fields), headers)
            answer = connection.getresponse()
            said = json.load(answer)
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            device.unsure.add(value)
            return type(error).__name__
        if answer.status == 200:
            device.value, device.updated_at = value, said["result"]["updatedAt"]
        else:
            device.unsure.add(value)
        return answer.status


@contextmanager
def running(clients: list[SoakClient]) -> Iterator[None]:
    """Have clients register until the end of the `with`."""
    for client in clients:
        client.start()
    try:
        yield
    finally:
        for client in clients:
            client.ended.set()
        for client in clients:
            client.join(90)
            assert not client.is_alive(), "a client never got an answer"


def lost_devices(clients: list[SoakClient], connection: psycopg.Connection) -> list[str]:
    """Return the devices whose registration is not stored as it was last acknowledged."""
    query = "SELECT token, updated_at FROM push_tokens WHERE user_id = %s AND app_name = %s"
    missing = []
    for client in clients:
        rows = connection.execute(query, (client.caller.user_id, APP))
        stored = {token: iso(updated_at) for token, updated_at in rows}
        missing += [device.name for device in client.devices if device.is_lost(stored)]
    return missing


def main() -> int:
    """Run, compare and print one JSON line; return 1 when something is lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=32)
    args = parser.parse_args()
    server = rig.start_server(ROOT / "instance" / "soak")
    url = server.dsn(embedded.DATABASE)
    killed = 0
    with psycopg.connect(url, autocommit=True) as connection:
        rig.fill(connection, 0)
        with rig.service(url) as (address, _):
            until = time.monotonic() + args.seconds
            callers = [Caller(f"user{n}", rig.auth_token(n)) for n in range(args.clients)]
            clients = [SoakClient(urlsplit(address).netloc, caller) for caller in callers]
            with running(clients):
                while time.monotonic() < until:
                    time.sleep(random.uniform(0.5, 1.5))
                    killed += connection.execute(KILL).fetchone()[0]
        load = Load(clients)
        missing = load.lost(connection) + lost_devices(clients, connection)
    server.release()
    devices = sum(bool(device.value) for client in clients for device in client.devices)
    acknowledged = load.acknowledged() + devices
    result = {"acknowledged": acknowledged, "killed": killed, "lost": len(missing)}
    answers = {str(status): count for status, count in load.statuses().items()}
    print(json.dumps(result | {"answers": answers}))
    return 1 if missing or not devices else 0


if __name__ == "__main__":
    sys.exit(main())
