"""Slow clients, in a process of their own: `python -m tests.support.dawdle HOST PORT COUNT`.

Each sends a byte a second; half of them dawdle in the head, half in the body. A line on stdin
is answered with two numbers, heads and bodies, of those who were neither answered nor cut off.
"""

import select
import socket
import sys
import time
from contextlib import suppress

HEAD = b"POST /api/v1/push.token HTTP/1.1\r\nHost: t\r\nContent-Length: 60000\r\n\r\n"


def waiting(clients: list[socket.socket]) -> int:
    """Count those who have been told nothing."""
    poll = select.poll()
    for client in clients:
        poll.register(client, select.POLLIN)
    return len(clients) - len(poll.poll(0))


def main(host: str, port: int, count: int) -> None:
    """Dawdle until stdin ends."""
    clients = [socket.create_connection((host, port)) for _ in range(count)]
    for place, client in enumerate(clients):
        client.sendall(HEAD if place % 2 else b"POST /")
    begin, turn = time.monotonic(), 0
    while True:
        pause = begin + turn / count - time.monotonic()
        if select.select([sys.stdin], [], [], max(0, pause))[0]:
            if not sys.stdin.readline():
                return
            print(waiting(clients[::2]), waiting(clients[1::2]), flush=True)
        else:
            with suppress(OSError):  # it stays readable, and so is no longer counted
                clients[turn % count].send(b"x")
            turn += 1


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
