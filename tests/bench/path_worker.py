"""The product's worker as the benchmark starts it: `python -m tests.bench.path_worker '{...}'`, options as JSON.

It prints a JSON line when it is ready, and one when SIGTERM has stopped it: its CPU time by stage, and how long its
batches took. SIGUSR1 lets it forget what it has measured so far.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Final

from stream.worker.app import StageTimes, Worker, WorkerConfig
from stream.worker.follower import Refresh
from stream.worker.garbage import settle
from tests.bench.path_options import Options, run_until_stopped, say
from tests.bench.path_stages import Stages

__all__ = ["main"]

_NEVER_S: Final = 1e9


async def main(stop: asyncio.Event) -> None:
    """Serve until `stop`."""
    options = Options.read()
    options.pin()
    stages = Stages()
    stages.count_batches()
    if options.stages:
        stages.watch()
        stages.watch_tasks(asyncio.get_running_loop())
    refresh = Refresh(_NEVER_S, _NEVER_S) if options.fixed_view else Refresh()
    config = WorkerConfig(Path(options.bundle), max_events=options.max_events, watch_s=0, refresh=refresh)
    worker = Worker(config, options.settings, options.names)

    def begin() -> None:
        stages.start()
        worker.times = StageTimes()

    def ready() -> None:
        settle()
        begin()
        say(ready=True)

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, begin)
    await worker.run(ready=ready, stop=stop)
    times = worker.times
    say(
        n_batches=stages.n_batches,
        stages_us=stages.us(),
        n_slices=times.n_slices,
        step_us=times.step_us,
        sends_us=times.sends_us,
        changelog_us=times.changelog_us,
    )


if __name__ == "__main__":
    run_until_stopped(main)
