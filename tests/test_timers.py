"""Timers between two of epoll's milliseconds."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator

import pytest

from stream.timers import precise_loop


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = precise_loop()
    yield loop
    loop.close()


def test_short_waits_end_when_they_are_due(loop: asyncio.AbstractEventLoop) -> None:
    """0.2 ms take that, and not the millisecond that asyncio's own loop makes of it; the best of many, since others run
    here as well."""

    async def shortest() -> float:
        took = []
        for _ in range(50):
            began_s = time.perf_counter()
            await asyncio.sleep(0.0002)
            took.append(time.perf_counter() - began_s)
        return min(took)

    assert 0.0002 <= loop.run_until_complete(shortest()) < 0.0009


@pytest.mark.parametrize("delay_s", [0.001, 0.05])
def test_what_arrives_meanwhile_ends_the_wait(loop: asyncio.AbstractEventLoop, delay_s: float) -> None:
    """A file that can be read is seen before the timer that rings later, be it a short wait or a long one."""
    source, sink = os.pipe()
    seen: list[str] = []

    def read() -> None:
        seen.append(os.read(source, 10).decode())
        loop.stop()

    loop.add_reader(source, read)
    loop.call_later(delay_s, seen.append, "late")
    os.write(sink, b"early")
    loop.run_forever()
    loop.remove_reader(source)
    os.close(source)
    os.close(sink)
    assert seen[0] == "early"


def test_other_threads_wake_it(loop: asyncio.AbstractEventLoop) -> None:
    """Through the loop's own pipe, while it waits for something short."""

    async def called() -> str:
        future: asyncio.Future[str] = loop.create_future()
        loop.call_later(0.015, lambda: future.done() or future.set_result("timer"))
        await loop.run_in_executor(None, lambda: loop.call_soon_threadsafe(future.set_result, "thread"))
        return await future

    assert loop.run_until_complete(called()) == "thread"
