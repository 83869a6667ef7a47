"""The product's worker as the benchmark starts it: `python -m tests.bench.path_worker '{...}'`, options as JSON.

It prints a JSON line when it is ready, and one when SIGTERM has stopped it: its CPU time by stage, and how long its
batches took. SIGUSR1 lets it forget what it has measured so far.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import TopicNames
from stream.worker.app import StageTimes, Worker, WorkerConfig
from tests.bench.path_stages import Stages

__all__ = ["Options", "main", "run_until_stopped"]


@dataclass(frozen=True, slots=True)
class Options:
    """How a process of the benchmark runs: what to serve, on which cluster and core."""

    bundle: str
    servers: str
    prefix: str
    n_partitions: int
    core: int | None
    max_events: int

    @classmethod
    def read(cls) -> Self:
        """From the command line."""
        return cls(**json.loads(sys.argv[1]))

    def written(self) -> str:
        """For a command line."""
        return json.dumps(asdict(self))

    @property
    def settings(self) -> KafkaSettings:
        """The cluster."""
        return KafkaSettings.read(self.servers)

    @property
    def names(self) -> TopicNames:
        """The topics."""
        return TopicNames(self.prefix)

    def pin(self) -> None:
        """Stay on the core that the options name, all threads."""
        if self.core is not None:
            os.sched_setaffinity(0, {self.core})


def say(**what: object) -> None:
    """Print a JSON line."""
    print(json.dumps(what), flush=True)


def run_until_stopped(main: Callable[[asyncio.Event], object]) -> None:
    """Run `main(stop)`, a coroutine function, with SIGTERM setting `stop`."""

    async def wired() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await main(stop)  # type: ignore[misc]

    asyncio.run(wired())


async def main(stop: asyncio.Event) -> None:
    """Serve until `stop`."""
    options = Options.read()
    options.pin()
    stages = Stages()
    stages.watch()
    stages.watch_tasks(asyncio.get_running_loop())
    config = WorkerConfig(Path(options.bundle), max_events=options.max_events, watch_s=0)
    worker = Worker(config, options.settings, options.names)

    def begin() -> None:
        stages.start()
        worker.times = StageTimes()

    def ready() -> None:
        begin()
        say(ready=True)

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, begin)
    await worker.run(ready=ready, stop=stop)
    times = worker.times
    say(
        n_batches=stages.n_calls["process, rest"],
        stages_us=stages.us(),
        step_us=times.step_us,
        sends_us=times.sends_us,
        changelog_us=times.changelog_us,
    )


if __name__ == "__main__":
    run_until_stopped(main)
