"""Trouble with workers: killed, stopped and continued, added and removed."""

from __future__ import annotations

import asyncio
import os
import signal

from tests.faults.round import SESSION_S, START_S, Round, Scenario

__all__ = ["SCENARIOS"]


async def kill(round_: Round) -> None:
    """Worker a is killed and started again, b stays, c is added and leaves."""
    victim, _ = await round_.serving("a", "b")
    guest = round_.worker("c")

    async def kill_and_restart() -> None:
        await round_.pause(1, 7)
        await victim.kill()
        await round_.pause(0, 2)
        await round_.worker("a").ready(START_S)

    async def add_and_remove() -> None:
        await guest.ready(START_S)
        await round_.pause(4, 8)
        round_.remarks["third_had"] = (await guest.stopped())["records"]

    async with round_.under_load():
        await asyncio.gather(kill_and_restart(), add_and_remove())


async def zombie(round_: Round) -> None:
    """Each of two workers in turn stands still until the other has taken over for seconds, then goes on."""
    workers = await round_.serving("a", "b")
    async with round_.under_load():
        for worker in workers:
            await round_.pause(1, 3)
            os.kill(worker.process.pid, signal.SIGSTOP)
            try:
                await round_.pause(SESSION_S + 4, SESSION_S + 8)
            finally:
                os.kill(worker.process.pid, signal.SIGCONT)
            await round_.pause(SESSION_S, SESSION_S + 4)  # it finds out, and is a member again
    round_.remarks["refused"] = round_.count("somebody else has taken it over")


async def rolling(round_: Round) -> None:
    """1 -> 3 -> 1: a alone, b and c come, a and b go."""
    (a,) = await round_.serving("a")
    async with round_.under_load():
        await round_.pause(1, 3)
        (b,) = await round_.serving("b")
        await round_.serving("c")
        await round_.pause(2, 4)
        had = [(await a.stopped())["records"]]
        await round_.pause(1, 3)
        had.append((await b.stopped())["records"])
        await round_.pause(1, 3)
    round_.remarks["others_had"] = had


async def queues(round_: Round) -> None:
    """Rebalances in quick succession, each of which drops what waits in queues: the workers stand still before it, so
    that much does."""
    workers = await round_.serving("a", "b")
    waiting = []
    async with round_.under_load():
        for _ in range(4):
            guest = round_.worker("c")
            await guest.ready(START_S)
            for worker in workers:
                os.kill(worker.process.pid, signal.SIGSTOP)
            try:
                await round_.pause(SESSION_S / 4, SESSION_S / 2)
                waiting.append(await round_.cluster.lag())
            finally:
                for worker in workers:
                    os.kill(worker.process.pid, signal.SIGCONT)
            await round_.pause(0, 0.5)
            await guest.stopped()
    round_.remarks["waiting"] = waiting


SCENARIOS = {
    "kill": Scenario("a worker killed with -9 and started again, a third one added and removed", kill),
    "zombie": Scenario("each of two workers stopped past its session (SIGSTOP), then continued", zombie),
    "rolling": Scenario("1, 3, then 1 worker under load", rolling),
    "queues": Scenario("rebalances in quick succession, which drop queued batches", queues),
}
