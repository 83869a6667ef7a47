"""What every process of the benchmark of the path is told, and how it answers.

A module of its own because peers read it in environments of theirs, where there is neither Faust nor the worker.
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
from stream.timers import precise_loop

__all__ = ["Options", "run_until_stopped", "say"]


@dataclass(frozen=True, slots=True)
class Options:
    """How a process of the benchmark runs.

    Attributes:
        bundle: folder of the bundle to serve.
        servers, prefix, n_partitions: the cluster and the topics.
        core: the core to stay on; None for all.
        max_events: events that are scored together at most.
        fixed_view: item statistics stay as they are at the start. A peer that is told so neither publishes item
            activity nor follows it.
        formulation: which of several ways to write the same job in this peer.
        workdir: folder for what a peer keeps on disk.
        stages: whether a stopwatch runs in the worker; without, all its time is that of the event loop.
    """

    bundle: str
    servers: str
    prefix: str
    n_partitions: int
    core: int | None
    max_events: int
    fixed_view: bool = False
    formulation: str = ""
    workdir: str = ""
    stages: bool = True

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

    @property
    def states(self) -> Path:
        """Where a peer keeps its users' states."""
        return Path(self.workdir) / f"{self.prefix}states"

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

    with asyncio.Runner(loop_factory=precise_loop) as runner:
        runner.run(wired())
