"""The product's worker as the benchmark of recovery starts it: `python -m tests.bench.recovery_worker '{...}'`.

It says how long it took to be ready and what it read for that, and from then on how many users it holds whenever that
changes, standbys' included. SIGTERM stops it gracefully.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from faust.tables.recovery import Recovery

from stream.batching.table import BatchTable, ChangelogRecord, MemoryStore
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import TopicNames
from stream.worker.app import Worker, WorkerConfig
from tests.bench.path_options import run_until_stopped, say

__all__ = ["RecoveryOptions", "main"]

_LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class RecoveryOptions:
    """How the worker runs; `began_s` is when it was started, in seconds of the epoch."""

    bundle: str
    servers: str
    prefix: str
    store: str
    data: str | None
    standbys: int
    session_s: float
    began_s: float

    @classmethod
    def read(cls) -> Self:
        """From the command line."""
        return cls(**json.loads(sys.argv[1]))

    def written(self) -> str:
        """For a command line."""
        return json.dumps(asdict(self))


@dataclass(slots=True)
class _Seen:
    """What recovery has done so far."""

    began_s: float = 0.0
    began_cpu_s: float = 0.0
    n_records: int = 0
    tables: set[BatchTable] | None = None

    def watch(self) -> None:
        """Note when a recovery begins and what it applies, on this process's tables."""
        rebalance, apply = Recovery.on_rebalance, BatchTable.apply_records

        async def on_rebalance(recovery: Any, *args: Any, **kwargs: Any) -> None:
            self.began_s, self.began_cpu_s = time.perf_counter(), time.process_time()
            await rebalance(recovery, *args, **kwargs)

        def apply_records(
            table: BatchTable, partition: int, records: Sequence[ChangelogRecord], *, logged: bool = True
        ) -> None:
            apply(table, partition, records, logged=logged)
            # Erasures are left out: the barriers before a recovery are some, one for each partition and start.
            self.n_records += sum(record.value is not None for record in records)
            self.tables = {table}

        vars_of: Any = Recovery
        vars_of.on_rebalance = on_rebalance
        BatchTable.apply_records = apply_records  # type: ignore[method-assign]

    def n_held(self) -> int:
        """Users in memory, active and standby; those of a store on disk are not counted."""
        stores = [table.data for table in self.tables or ()]
        return sum(
            len(states) for store in stores if isinstance(store, MemoryStore) for states in store.by_partition.values()
        )


async def main(stop: asyncio.Event) -> None:
    """Serve until `stop`."""
    options = RecoveryOptions.read()
    seen = _Seen()
    seen.watch()
    config = WorkerConfig(
        Path(options.bundle),
        data=None if options.data is None else Path(options.data),
        store=options.store,
        watch_s=0,
        session_s=options.session_s,
        standbys=options.standbys,
    )
    worker = Worker(config, KafkaSettings.read(options.servers), TopicNames(options.prefix))

    def ready() -> None:
        say(
            ready=True,
            ready_s=time.time() - options.began_s,
            recovery_s=time.perf_counter() - seen.began_s,
            cpu_s=time.process_time() - seen.began_cpu_s,
            n_records=seen.n_records,
            peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        )

    async def tell() -> None:
        n_told = -1
        while True:
            if (n_held := seen.n_held()) != n_told:
                n_told = n_held
                say(n_held=n_held)
            await asyncio.sleep(_LOOK_S)

    telling = asyncio.ensure_future(tell())
    try:
        await worker.run(ready=ready, stop=stop)
    finally:
        telling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await telling
    say(stopped=True)


if __name__ == "__main__":
    run_until_stopped(main)
