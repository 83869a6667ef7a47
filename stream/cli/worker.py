"""`polytempo worker`: events in, recommendations out, until it is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from stream.cli.console import people, print_json
from stream.cli.observing import ObservingOptions
from stream.cli.options import KafkaOptions, parse_duration_ms
from stream.errors import PolytempoError
from stream.kafka.topics import TopicNames
from stream.timers import precise_loop

if TYPE_CHECKING:
    from stream.worker.app import Worker

__all__ = ["worker"]

logger = logging.getLogger(__name__)


def worker(
    *,
    bundle: Annotated[Path | None, Parameter(name=["--bundle", "-b"])] = None,
    experiment: Path | None = None,
    data: Path | None = None,
    store: Literal["memory", "rocksdb"] = "memory",
    n: int | None = None,
    seen: Literal["session", "history", "none"] | None = None,
    refresh: str = "1s",
    batch: int = 256,
    watch_bundle: str = "2s",
    session: str = "10s",
    standbys: int = 1,
    forget_after: str | None = None,
    drift_window: str = "1d",
    log_level: Literal["debug", "info", "warning", "error"] = "warning",
    log_format: Literal["text", "json"] = "text",
    json: bool = False,
    observing: ObservingOptions | None = None,
    connection: KafkaOptions | None = None,
) -> int:
    """Turn events into recommendations with a bundle.

    Start as many workers as there are partitions at most; they share the users between them, and take over from each
    other when one stops. Ctrl-C or SIGTERM stops a worker gracefully: what it has begun is finished and committed.

    A bundle is exchanged without a restart: let --bundle name a channel (`polytempo bundle activate CHANNEL BUNDLE`),
    or write a new version into the folder. It is verified and warmed up first; what is refused leaves the old one.

    With --experiment several bundles serve side by side, each its share of the users; the file is followed like a
    channel, so that weights may be changed while it runs.

    Examples:

    `polytempo worker --bundle models/shop-ranker`

    `polytempo worker --experiment experiment.toml`

    `polytempo worker --bundle models/live.json --kafka kafka-1:9092,kafka-2:9092 --data /var/lib/polytempo`

    Args:
        bundle: Bundle folder, or a channel file that names one.
        experiment: Experiment file instead of a bundle: variants with weights, bundles and rules; see the README.
        data: Folder that makes the next start quicker: snapshots of the item statistics and, with --store rocksdb,
            the users' states. Each worker needs its own. Left out: nothing is kept, everything is read from Kafka.
        store: Where users' states are kept while it runs: memory, or rocksdb (needs --data and the package rocksdict).
        n: Items of a recommendation. Left out: what the bundle says.
        seen: What of the user's past is not recommended again. Left out: what the bundle says.
        refresh: How old the view of the item statistics may become.
        batch: Events that are scored together at most, up to 512. Batches form by load, never by waiting.
        watch_bundle: How often to look for a new bundle; 0s for never.
        session: After so long without a sign of life the others take over what a worker that died has left. Clusters
            allow no less than 6s unless told otherwise.
        standbys: How many other workers hold a copy of each user's state, so that they can take over at once. With 0
            the changelog is read first; a copy costs as much memory as the states themselves.
        forget_after: Users without events for so long, in event time, as in 400d, are removed from states and
            changelog, and who comes back begins anew. Replays of these topics need the same. Left out: states stay.
        drift_window: How far back features and scores are held against those of the bundle's training window.
        log_level: What is logged to standard error.
        log_format: Log lines for people, or one JSON object each, with everything else that goes to standard error.
        json: Print JSON lines: one with the address of health and metrics, one when it is ready, one with its counts
            when it has stopped.
    """
    from stream.operations.loglines import set_up_logging
    from stream.wire.userkeys import UserKeys
    from stream.worker.app import Worker, WorkerConfig
    from stream.worker.follower import Refresh

    connection = KafkaOptions() if connection is None else connection
    if (bundle is None) == (experiment is None):
        raise PolytempoError("a worker serves one thing.", "Name a bundle with --bundle, or a file with --experiment.")
    served = bundle if bundle is not None else experiment
    assert served is not None  # noqa: S101 - one of the two, see above
    observing = ObservingOptions() if observing is None else observing
    refresh_s = parse_duration_ms(refresh) / 1000
    if store == "rocksdb" and data is None:
        raise PolytempoError("--store rocksdb keeps states in a folder.", "Name it with --data.")
    user_keys = UserKeys.read()
    try:
        settings, watched = connection.settings(), observing.observing(refresh_s)
    except PolytempoError as error:
        if log_format == "text":
            raise
        set_up_logging(log_level, log_format, user_keys.secrets)
        return _logged(error)
    secrets = [*user_keys.secrets, settings.password or "", "" if watched.token is None else watched.token.secret]
    set_up_logging(log_level, log_format, secrets)
    config = WorkerConfig(
        bundle=served,
        data=data,
        store=f"{store}://",
        max_events=batch,
        refresh=Refresh(longest_s=refresh_s),
        watch_s=parse_duration_ms(watch_bundle) / 1000,
        session_s=parse_duration_ms(session) / 1000,
        standbys=standbys,
        forget_after_ms=0 if forget_after is None else parse_duration_ms(forget_after),
        drift_window_s=parse_duration_ms(drift_window) / 1000,
        n_items=n,
        seen=seen,
        observing=watched,
        user_keys=user_keys,
    )
    if log_format == "text":
        return _serve(Worker(config, settings, TopicNames(connection.prefix)), quiet=json, json=json)
    try:
        return _serve(Worker(config, settings, TopicNames(connection.prefix)), quiet=True, json=json)
    except PolytempoError as error:
        return _logged(error)


def _logged(error: PolytempoError) -> int:
    """The exit code, after an expected error has become a line of the log instead of one for people."""
    logger.error(error.message, extra={"hint": error.hint})
    return 2


def _serve(serving: Worker, *, quiet: bool, json: bool) -> int:
    """Run until a signal; say what becomes of it to people unless `quiet`, and to programs if `json`."""
    from stream.worker.garbage import settle

    def ready() -> None:
        settle()
        if json:
            print_json({"ready": True, "bundle": serving.reference, "pid": os.getpid()})
        logger.info("ready", extra={"bundle": serving.reference, "http": serving.observed.url})
        if not quiet:
            people.print(f"[green]ready[/]: {serving.reference} answers events; Ctrl-C stops it gracefully")
            if serving.observed.url is not None:
                people.print(f"health and metrics: {serving.observed.url}/status", style="dim")

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for name in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(name, stop.set)
        status = None if quiet else people.status(f"starting with {serving.reference} …")
        with contextlib.nullcontext() if status is None else status:

            def progress(n_read: int, n_all: int) -> None:
                if status is not None and n_all > 0:
                    status.update(f"reading item statistics: {n_read:,} of {n_all:,} messages")

            def stop_status() -> None:
                if status is not None:
                    status.stop()
                ready()

            def listening(url: str) -> None:
                if json:
                    print_json({"http": url, "pid": os.getpid()})

            await serving.run(ready=stop_status, stop=stop, progress=progress, listening=listening)

    with asyncio.Runner(loop_factory=precise_loop) as runner:
        runner.run(main())
    counters = serving.counters
    summary = {
        "stopped": True,
        "records": counters.n_records,
        "recommendations": counters.n_recommendations,
        "replayed": counters.n_replayed,
        "duplicates": counters.n_duplicates,
        "late": counters.n_late,
        "impressions": counters.n_impressions,
        "forgotten": counters.n_forgotten,
        "returned": counters.n_returned,
        "removed": counters.n_removed,
        "dead_letters": counters.dead_letters,
        "shadow": asdict(serving.shadow_counters),
    }
    if json:
        print_json(summary)
    logger.info("stopped", extra=summary)
    if not quiet:
        people.print(
            f"stopped: {counters.n_records:,} records, {counters.n_recommendations:,} recommendations, "
            f"{counters.n_dead_letters:,} dead letters"
        )
    return 0
