"""Rounds of trouble for the batch path: `python -m tests.faults.batching_rounds ROUNDS --broker HOST:PORT`.

Each round runs two workers on a steady stream of events. One of them is killed with SIGKILL and started again; a
third one is added and later leaves. Afterwards every input must have its output, and every state must equal an
offline rebuild of the input. Repeated outputs are counted; they are what "at least once" costs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from tests.batching.audit import Setup, Verdict, audit, caught_up, feed


async def _feed_until(setup: Setup, over: asyncio.Event, n_events: int, rate: float) -> None:
    """At least `n_events`, and on until the trouble is over, so that all of it happens under load."""
    n_fed, n_chunk = 0, int(rate)
    while n_fed < n_events or not over.is_set():
        await feed(setup, n_chunk, n_users=2000, rate=rate, start=n_fed)
        n_fed += n_chunk


async def one_round(broker: str, *, n_events: int, rate: float, store: str, standbys: int, seed: int) -> Verdict:
    """One round on topics of its own; the moments of trouble are drawn from `seed`."""
    moments = random.Random(seed)
    with tempfile.TemporaryDirectory() as directory:
        extra = ("--session-s", "6", "--store", store, "--standbys", str(standbys))
        setup = Setup(broker, f"round-{uuid.uuid4().hex[:8]}", extra=extra, workdir=Path(directory))
        await setup.create()
        workers = [setup.worker("a"), setup.worker("b")]
        over = asyncio.Event()
        doing: list[asyncio.Future[None]] = []
        try:
            feeding = asyncio.ensure_future(_feed_until(setup, over, n_events, rate))
            doing.append(feeding)
            await asyncio.gather(*(worker.ready() for worker in workers))

            async def kill_and_restart() -> None:
                await workers[0].applying()
                await asyncio.sleep(moments.uniform(0, 2))
                await workers[0].kill()
                await asyncio.sleep(moments.uniform(0, 3))
                workers.append(setup.worker("a"))
                await workers[-1].applying()

            async def add_and_remove() -> None:
                await asyncio.sleep(moments.uniform(0, 2))
                added = setup.worker("c")
                workers.append(added)
                await added.applying()
                await asyncio.sleep(moments.uniform(0, 2))
                assert await added.stop() == 0, added.stderr.read_text()[-3000:]

            trouble = [asyncio.ensure_future(kill_and_restart()), asyncio.ensure_future(add_and_remove())]
            doing += trouble
            await asyncio.gather(*trouble)
            over.set()
            await feeding
            await caught_up(setup)
            verdict = await audit(setup)
            running = [worker for worker in workers if worker.process.poll() is None]
            statuses = [await worker.stop() for worker in running]
            if not verdict.sound or any(statuses) or len(running) != 2:
                kept = Path(tempfile.mkdtemp(prefix="batching-round-"))
                for worker in workers:
                    (kept / f"{worker.stderr.parent.name}.log").write_bytes(worker.stderr.read_bytes())
                raise AssertionError(f"{setup.name} seed {seed}: {verdict}, exit {statuses}, logs in {kept}")
            return verdict
        finally:
            for task in doing:  # else one that goes on would start a worker behind our back
                task.cancel()
            await asyncio.gather(*doing, return_exceptions=True)
            await setup.kill_all()


async def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rounds", type=int)
    parser.add_argument("--broker", default=os.environ.get("POLYTEMPO_KAFKA", "127.0.0.1:9092"))
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--rate", type=float, default=6_000)
    parser.add_argument("--store", default="memory://")
    parser.add_argument("--standbys", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    n_failed = 0
    for i in range(args.rounds):
        began_s = time.monotonic()
        try:
            verdict = await one_round(
                args.broker,
                n_events=args.events,
                rate=args.rate,
                store=args.store,
                standbys=args.standbys,
                seed=args.seed + i,
            )
            print(f"round {i + 1}: {verdict} in {time.monotonic() - began_s:.0f} s", flush=True)
        except (AssertionError, TimeoutError) as exc:
            n_failed += 1
            print(f"round {i + 1}: FAILED {exc!r}", flush=True)
    print(f"{args.rounds - n_failed} of {args.rounds} rounds sound", flush=True)
    return n_failed


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
