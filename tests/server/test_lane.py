"""The queue of group commit: who is written together."""

import asyncio

import pytest

from app.registry.registration import Registration
from app.server.lane import FEW, Lane, Waiter


def waiter() -> Waiter:
    asked = Registration(b"", "alice", "app", "token", "gcm")
    return Waiter(asked, deadline=float("inf"), done=lambda _: None)


@pytest.mark.parametrize(
    ("waiting", "sizes"), [(0, [1, 1]), (1, [1, 2]), (FEW - 1, [1, FEW]), (FEW, [1, FEW, 1])]
)
def test_few_that_wait_are_joined_by_who_was_just_answered(waiting, sizes):
    async def groups() -> list[int]:
        loop, written = asyncio.get_running_loop(), []

        async def write(group: list[Waiter]) -> None:
            written.append(len(group))
            if len(written) == 1:
                for _ in range(waiting):
                    lane.add(waiter())
                loop.call_soon(lane.add, waiter())  # whose answer has just arrived

        lane = Lane(100, write)
        lane.add(waiter())
        for _ in range(10):
            await asyncio.sleep(0)
        return written

    assert asyncio.run(groups()) == sizes
