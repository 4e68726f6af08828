"""gunicorn's workers, live: what gevent patches, what signals do, who keeps whom waiting."""

import json
import os
import random
import signal
import socket
import time
import urllib.request
from contextlib import ExitStack
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import gevent
import gevent.socket

from app.server.worker import OneSend
from tests.support.factories import body
from tests.support.live import Live, serve

URL = "/api/v1/push.token"


def post(live: Live, caller, **fields: object) -> dict[str, object]:
    request = urllib.request.Request(
        live.url + URL,
        json.dumps(body(**fields)).encode(),
        {**caller.headers, "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def test_a_worker_waits_for_postgresql_without_keeping_others_waiting(database_url):
    with (
        serve(database_url, "tests.support.inspected:app") as live,
        urllib.request.urlopen(f"{live.url}/inspect") as answer,
    ):
        said = json.load(answer)
    assert said == {"waits_in_c": False, "lock": "gevent.thread"}


def test_clients_that_send_a_byte_and_stop_keep_nobody_waiting(live, alice):
    with ExitStack() as stack:
        for _ in range(64):
            client = socket.create_connection(("127.0.0.1", live.port))
            stack.enter_context(client)
            client.sendall(b"P")
        start = time.monotonic()
        for number in range(20):
            post(live, alice, value=f"v{number}")
        assert time.monotonic() - start < 5


def test_two_instances_run_side_by_side(database_url, live, alice):
    with serve(database_url) as other:
        assert post(other, alice)["result"]["_id"] == post(live, alice)["result"]["_id"]


def test_a_worker_that_is_killed_is_replaced(database_url, alice):
    with serve(database_url, WEB_CONCURRENCY="1") as live:
        post(live, alice)
        children = f"/proc/{live.process.pid}/task/{live.process.pid}/children"
        with open(children) as file:
            (worker,) = file.read().split()
        os.kill(int(worker), signal.SIGKILL)
        deadline = time.monotonic() + 10
        while not live.says_yes("/readyz"):
            assert time.monotonic() < deadline
        assert post(live, alice)["success"]


def test_hup_replaces_the_workers(database_url, alice):
    with serve(database_url, workers=2) as live:
        before = live.workers()
        live.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 30
        while not live.is_renewed(before):
            assert time.monotonic() < deadline, "the workers are the same"
            assert post(live, alice)["success"]
            time.sleep(0.02)
        assert post(live, alice)["success"]


def test_no_header_says_where_a_request_goes(live):
    """They are a proxy's to say, and this service asks none of them."""
    spoofed = "Script_Name: /x\r\nScript-Name: /x\r\nX-Forwarded-Proto: https\r\nPath_Info: /x\r\n"
    request = f"GET /healthz HTTP/1.1\r\nHost: t\r\nConnection: close\r\n{spoofed}\r\n"
    answer = live.exchange(request.encode())
    assert answer.startswith(b"HTTP/1.1 200"), answer


def test_an_answer_says_when_it_was_made(live):
    head, _, _ = live.exchange(
        b"GET /healthz HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"
    ).partition(b"\r\n\r\n")
    (date,) = [line for line in head.split(b"\r\n") if line.startswith(b"Date: ")]
    said = parsedate_to_datetime(date.removeprefix(b"Date: ").decode())
    assert abs((datetime.now(UTC) - said).total_seconds()) < 3


def test_what_does_not_fit_the_sockets_buffer_is_sent_too():
    ours, theirs = gevent.socket.socketpair()
    whole = random.randbytes(3_000_000)
    with ours, theirs:
        client = OneSend(ours)
        sender = gevent.spawn(lambda: (client.sendall(whole), client.flush(), ours.close()))
        assert theirs.makefile("rb").read() == whole
        sender.get()
