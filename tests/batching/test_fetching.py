"""Fetches of a consumer, held back."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from stream.batching.fetching import Pacer, ask_for


class Clock:
    """A loop's time that sleeping moves on."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.slept_s: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(round(seconds, 6))
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(asyncio, "sleep", clock.sleep)
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: SimpleNamespace(time=lambda: clock.now_s))
    return clock


def consumer(sent: list[tuple[int, str]]) -> Any:
    async def fetch(_assignment: Any, node_id: int, request: str) -> bool:
        sent.append((node_id, request))
        return True

    return SimpleNamespace(_fetcher=SimpleNamespace(_proc_fetch_request=fetch, _client=SimpleNamespace(_conns={})))


async def test_a_fetch_follows_the_last_one_to_the_same_broker_after_the_pace(clock: Clock) -> None:
    """
    broker 1   a at 100 | b: 3 ms later, held back 1 | c: 9 ms later, at once
    broker 2            | at once
    """
    sent: list[tuple[int, str]] = []
    pacer = Pacer(consumer(sent))
    pacer.pace_s = 0.004
    fetch = pacer.fetcher._proc_fetch_request
    await fetch(None, 1, "a")
    clock.now_s += 0.003
    await fetch(None, 2, "other")
    await fetch(None, 1, "b")
    clock.now_s += 0.009
    await fetch(None, 1, "c")
    assert (sent, clock.slept_s) == ([(1, "a"), (2, "other"), (1, "b"), (1, "c")], [0.001])


async def test_without_a_pace_nothing_is_held_back(clock: Clock) -> None:
    sent: list[tuple[int, str]] = []
    pacer = Pacer(consumer(sent))
    for _ in range(3):
        await pacer.fetcher._proc_fetch_request(None, 1, "a")
    assert (len(sent), clock.slept_s) == (3, [])


async def test_a_fetch_that_is_held_back_ends_when_its_partitions_are_given_back() -> None:
    """As one that is under way: nothing new, and no error."""
    sent: list[tuple[int, str]] = []
    pacer = Pacer(consumer(sent))
    pacer.pace_s = 3600.0
    await pacer.fetcher._proc_fetch_request(None, 1, "a")
    held = asyncio.ensure_future(pacer.fetcher._proc_fetch_request(None, 1, "b"))
    await asyncio.sleep(0)
    held.cancel()
    assert await held is False
    assert sent == [(1, "a")]


def test_what_fetches_ask_for_can_be_changed() -> None:
    some = SimpleNamespace(_fetcher=SimpleNamespace())
    ask_for(some, max_wait_ms=20, min_bytes=7)
    assert vars(some._fetcher) == {"_fetch_max_wait_ms": 20, "_fetch_min_bytes": 7}
