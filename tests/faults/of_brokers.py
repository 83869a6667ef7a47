"""Trouble with the broker: stopped, killed, slow."""

from __future__ import annotations

import asyncio
import os
import signal

from stream.kafka.broker import EmbeddedBroker
from tests.faults.round import Round, Scenario

__all__ = ["SCENARIOS"]


def _broker(round_: Round) -> EmbeddedBroker:
    assert round_.broker is not None, "this scenario hurts its broker, so it needs one of its own"
    return round_.broker


async def restarted(round_: Round) -> None:
    """Stopped in order and started again, twice."""
    broker = _broker(round_)
    await round_.serving("a", "b")
    async with round_.under_load():
        for _ in range(2):
            await round_.pause(2, 4)
            await asyncio.to_thread(broker.restart)
            await round_.pause(3, 6)


async def killed(round_: Round) -> None:
    """Killed as a power cut would, left dead for a while, started again."""
    broker = _broker(round_)
    await round_.serving("a", "b")
    async with round_.under_load():
        await round_.pause(2, 5)
        await asyncio.to_thread(broker.kill)
        await round_.pause(1, 8)
        await asyncio.to_thread(broker.restart)
        await round_.pause(3, 6)


async def slow(round_: Round) -> None:
    """It stands still for up to three seconds, eight times."""
    broker = _broker(round_)
    await round_.serving("a", "b")
    async with round_.under_load():
        for _ in range(8):
            await round_.pause(0.5, 1.5)
            os.kill(broker.pid, signal.SIGSTOP)
            try:
                await round_.pause(0.2, 3)
            finally:
                os.kill(broker.pid, signal.SIGCONT)


SCENARIOS = {
    "broker-restarted": Scenario("the broker stopped in order and started again, twice", restarted, own_broker=True),
    "broker-killed": Scenario("the broker killed with -9, dead for seconds, started again", killed, own_broker=True),
    "broker-slow": Scenario("the broker standing still for up to 3 s, eight times", slow, own_broker=True),
}
