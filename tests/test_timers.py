"""Timers between two of epoll's milliseconds."""

from __future__ import annotations

import asyncio
import os
import select
import time
from collections.abc import Iterator
from typing import Any

import pytest

from stream.timers import precise_loop


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = precise_loop()
    yield loop
    loop.close()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the system was told to wait, each time by `select`."""
    waits: list[float] = []
    real = select.select

    def noting(readable: Any, writable: Any, strange: Any, timeout: float) -> Any:
        waits.append(timeout)
        return real(readable, writable, strange, timeout)

    monkeypatch.setattr(select, "select", noting)
    return waits


def test_a_short_wait_is_not_rounded_up(loop: asyncio.AbstractEventLoop, waits: list[float]) -> None:
    """3.1 ms are waited for as 3.1 ms, not as the 4 that epoll would make of them; and no timer rings too early."""
    began_s = time.monotonic()
    loop.run_until_complete(asyncio.sleep(0.0031))
    assert time.monotonic() - began_s >= 0.0031
    assert waits
    assert all(0 < wait_s <= 0.0031 for wait_s in waits)


def test_a_long_wait_costs_no_second_call(loop: asyncio.AbstractEventLoop, waits: list[float]) -> None:
    loop.run_until_complete(asyncio.sleep(0.05))
    assert waits == []


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
