"""The worker as a Faust app: who reads what, in which order things are delivered, and how bundles are exchanged.

events --agent, whole batches--> Processor --> recommendations, dead-letters, item-activity --> changelog --> commit
                                    ^
item-activity, items --Follower--> view           bundle folder or channel --Exchange--> bundle
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import faust
from aiokafka.errors import KafkaError
from faust.types import TP

from stream.batching import (
    SETTINGS,
    Applied,
    BatchTable,
    FetchSettings,
    Load,
    RecordBatch,
    Send,
    Timings,
    batch_topic,
    run_batches,
    serve,
    use_batches,
)
from stream.batching.producing import delivered, produce
from stream.batching.sending import Lane
from stream.bundle.service import ServedBundle, Service, ServiceWatcher, load_service
from stream.core.activity import ActivityBatch, concatenated
from stream.core.tally import STEPS
from stream.errors import PolytempoError
from stream.kafka.lookup import topic_partitions
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import TopicNames
from stream.operations.health import Phase
from stream.wire.activity import encode_activity
from stream.wire.encode import dead_letter
from stream.wire.limits import Limits
from stream.wire.userkeys import UserKeys
from stream.worker.follower import Follower, Refresh
from stream.worker.observed import Observed, Observing
from stream.worker.processor import Counters, Fetched, Output, Processor, letter_key
from stream.worker.retention import Retention
from stream.worker.shadow import ShadowCounters, Shadows
from stream.worker.vitals import Vitals

__all__ = ["MAX_BATCH", "StageTimes", "Worker", "WorkerConfig"]

logger = logging.getLogger(__name__)

MAX_BATCH: Final = 512
"""Events of one step, and of one activity message, at most: with the longest ids that are accepted, it still fits into
one record."""
_SNAPSHOT_S = 600.0
_REPORT_S = 1.0
_SHADOW_IDLE_S = 0.02
_SHADOW_SHARE = 0.1
"""Of a worker's time."""
_TIDY_S = 3600.0


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """How a worker runs.

    Attributes:
        bundle: a bundle folder, a channel file that names one, or an experiment file that names several.
        data: folder for what makes the next start quicker; None keeps nothing.
        store: where states are kept: "memory://" or "rocksdb://".
        max_events: events that one step handles, at most MAX_BATCH; batches form by load, never by waiting.
        refresh: when the view of item statistics moves on.
        watch_s: how often the bundle is looked at for a new version; 0 for never.
        session_s: after so long without a sign of life the others take over a worker's partitions. Clusters allow 6 s
            at least by default.
        limits: what is refused as too large, too long or too far off.
        fetch: what a fetch asks of the broker.
        n_items, seen: replace the bundle's own policy; what a variant of an experiment says itself stands.
        observing: where health and metrics are served, and what counts as trouble.
        user_keys: secrets of the users' pseudonyms.
        standbys: how many other workers hold a copy of each user's state, so that they can take over at once.
        forget_after_ms: users without events for so long, in event time, are removed and begin anew; 0 for never.
        drift_window_s: how far back features and scores are held against those of the bundle's training.
    """

    bundle: Path
    data: Path | None = None
    store: str = "memory://"
    max_events: int = 256
    refresh: Refresh = field(default_factory=Refresh)
    watch_s: float = 2.0
    session_s: float = 10.0
    limits: Limits = field(default_factory=Limits)
    fetch: FetchSettings = field(default_factory=FetchSettings)
    n_items: int | None = None
    seen: str | None = None
    observing: Observing = field(default_factory=Observing)
    standbys: int = 1
    user_keys: UserKeys = field(default_factory=UserKeys)
    drift_window_s: float = 86_400.0
    forget_after_ms: int = 0

    def __post_init__(self) -> None:
        if self.standbys < 0:
            raise PolytempoError(f"{self.standbys} standbys are not possible.", "Ask for 0 or more.")
        if not self.drift_window_s > 0:
            raise PolytempoError("the window of drift has a length.", "Ask for some hours, as in --drift-window 6h.")
        if not 1 <= self.max_events <= MAX_BATCH:
            raise PolytempoError(f"a batch of {self.max_events} events is not possible.", f"Ask for 1 to {MAX_BATCH}.")


@dataclass(slots=True)
class StageTimes:
    """Where the time of finished batches went, in microseconds, summed; see `stream.batching.Timings`."""

    n_events: int = 0
    n_slices: int = 0
    step_us: int = 0
    sends_us: int = 0
    changelog_us: int = 0

    def add(self, n_events: int, timings: Timings) -> None:
        """Count one finished batch."""
        self.n_events += n_events
        self.n_slices += 1
        self.step_us += timings.step_us
        self.sends_us += timings.sends_us
        self.changelog_us += timings.changelog_us


class Worker:
    """One worker process. `run` returns after a graceful stop, and raises what crashed it."""

    def __init__(self, config: WorkerConfig, settings: KafkaSettings, names: TopicNames) -> None:
        self.config = config
        self.settings = settings
        self.names = names
        self.counters = Counters()
        self.shadow_counters = ShadowCounters()
        self.times = StageTimes()
        self.observed = Observed(config.observing, self.counters)
        self.problem: Exception | None = None
        """Why the newest change of the bundle was not taken over; None if there is nothing to complain about."""
        self._watcher = ServiceWatcher(config.bundle)
        self._service = self._load(config.bundle)
        self._follower = self._follow(self.bundle)
        forget_after_ms = config.forget_after_ms
        self._retention = Retention(forget_after_ms) if forget_after_ms > 0 else None
        self._processor: Processor | None = None
        self._background: set[asyncio.Task[Any]] = set()
        self._partitions = 0
        self._n_letter_partitions = 1
        self._has_shadow_topic = False
        self._app: faust.App | None = None
        self._table: BatchTable | None = None

    @property
    def bundle(self) -> ServedBundle:
        """The bundle that serves now; of an experiment, that of the first variant."""
        return self._service.arms[0].bundle

    @property
    def reference(self) -> str:
        """What serves now, for people."""
        return self._service.reference

    @property
    def view_offset(self) -> int:
        """Offset in `item-activity` that the view stands at."""
        return self._follower.view.offset

    async def run(
        self,
        *,
        ready: Callable[[], None],
        stop: asyncio.Event,
        progress: Callable[[int, int], None] | None = None,
        listening: Callable[[str], None] | None = None,
    ) -> None:
        """Catch up with the item statistics, recover the states, and answer events until `stop` is set.

        Args:
            ready: called once, when it answers events.
            stop: ends it gracefully.
            progress: gets (messages read, messages to read) of the item statistics.
            listening: gets the address of health and metrics, before anything else happens.

        Raises:
            PolytempoError: topics are missing or do not fit together, or the address for health is taken.
        """
        with self.observed as observed:
            if listening is not None and observed.url is not None:
                listening(observed.url)
            await self._run(ready, stop, progress)

    async def _run(
        self, ready: Callable[[], None], stop: asyncio.Event, progress: Callable[[int, int], None] | None
    ) -> None:
        health = self.observed.health

        def on_progress(n_read: int, n_all: int) -> None:
            health.enter(Phase.READING_STATISTICS, f"{n_read:,} of {n_all:,} messages")
            if progress is not None:
                progress(n_read, n_all)

        await self._look_at_topics()
        health.enter(Phase.READING_STATISTICS)
        if not await _unless(stop, self._follower.start(on_progress)):
            await self._follower.stop()
            return
        try:
            await self._look_at_history()
        except PolytempoError:
            await self._follower.stop()
            raise
        health.enter(Phase.WARMING_UP)
        processor = self._make_processor(self._service, self._follower)
        processor.warm_up()
        health.enter(Phase.RECOVERING)
        self._processor = processor
        with tempfile.TemporaryDirectory(prefix="polytempo-") as scratch:
            app = self._app = self._make_app(Path(scratch))
            self._spawn(self._follow_on())
            self._spawn(self._score_shadows())
            self._spawn(self.observed.beat(self._vitals))
            self._spawn(self._roll_regularly())
            if self.config.watch_s > 0:
                self._spawn(self._watch_bundle())
            if self.config.data is not None:
                self._spawn(self._save_regularly())
                self._spawn(self._tidy_regularly())

            def on_ready() -> None:
                self._spawn(self._report_items())  # it asks the consumer what is assigned, which only now can answer
                health.enter(Phase.SERVING)
                ready()

            try:
                await serve(app, ready=on_ready, stop=stop)
            finally:
                health.enter(Phase.STOPPING)
                for task in list(self._background):
                    task.cancel()
                await asyncio.gather(*self._background, return_exceptions=True)
                await self._follower.stop()
        self._follower.save()

    # -- events --------------------------------------------------------------------------------------------------------

    def _make_app(self, scratch: Path) -> faust.App:
        config, names = self.config, self.names
        app = faust.App(
            names.app_id,
            **self.settings.faust(),
            **{**SETTINGS, "store": config.store},
            datadir=str(config.data if config.data is not None else scratch),
            autodiscover=False,
            topic_partitions=self._partitions,
            broker_session_timeout=config.session_s,
            broker_heartbeat_interval=config.session_s / 4,
            table_cleanup_interval=3600.0,
            table_standby_replicas=config.standbys,
        )
        use_batches(app, config.fetch)
        table = self._table = BatchTable(app, name="users", partitions=self._partitions)
        events = batch_topic(app, names.events, partitions=self._partitions)

        @app.agent(events, name=f"{names.app_id}.recommend")  # type: ignore[untyped-decorator]
        async def recommend(stream: Any) -> None:
            await run_batches(
                app,
                stream,
                table,
                self._step,
                prepare=self._prepare,
                max_events=config.max_events,
                later=self._counted,
                on_done=self._done,
            )

        return app

    async def _prepare(self, _tp: TP, _next_offset: int) -> None:
        await self._look_at_history()  # Kafka forgets the offsets of a deleted topic: it would be read from 0

    def _step(self, batches: Sequence[RecordBatch], loads: Sequence[Load]) -> list[Applied]:
        processor = self._processor
        if processor is None:
            raise RuntimeError("a batch came before the worker was ready for it")
        try:
            outputs = processor.process_all(
                [self._fetched(batch, load) for batch, load in zip(batches, loads, strict=True)]
            )
        except Exception:
            for batch in batches:
                place = {"topic": batch.tp.topic, "partition": batch.tp.partition}
                logger.exception(
                    "a batch could not be answered",
                    extra={**place, "first_offset": batch.first, "last_offset": batch.last},
                )
            raise
        return [self._applied(batch.tp, output) for batch, output in zip(batches, outputs, strict=True)]

    def _fetched(self, batch: RecordBatch, load: Load) -> Fetched:
        tp, covers = batch.tp, (batch.first, batch.last)
        if self._retention is None or self._app is None or self._table is None:
            return Fetched(batch.records, load, tp.topic, tp.partition, covers)
        walk = partial(self._table.walk, tp.partition)
        return Fetched(batch.records, load, tp.topic, tp.partition, covers, walk, self._app.consumer.committed(tp))

    def _applied(self, tp: TP, output: Output) -> Applied:
        names, sends = self.names, []
        if output.recommendations:
            sends.append(Send(names.recommendations, tp.partition, output.recommendations))
        if output.dead_letters:
            sends.append(Send(names.dead_letters, tp.partition % self._n_letter_partitions, output.dead_letters))
        if output.receipts:
            sends.append(Send(names.forgotten, 0, output.receipts))
        return Applied(output.writes, sends, output.activity)

    def _counted(self, tp: TP, activities: Sequence[ActivityBatch]) -> list[Send]:
        """What slices of a partition add to the item statistics: all workers read every message, so few are made."""
        messages = [encode_activity(concatenated(run)) for run in _runs(activities, MAX_BATCH)]
        return [Send(self.names.item_activity, 0, [(tp.topic.encode(), message) for message in messages])]

    def _done(self, batch: RecordBatch, timings: Timings) -> None:
        self.times.add(len(batch.records), timings)
        self.observed.finished(batch, timings)

    def _vitals(self, now_s: float) -> Vitals | None:
        app, table, processor, follower = self._app, self._table, self._processor, self._follower
        if app is None or table is None or processor is None or not app.started:
            return None
        recovery, n_users = app.tables.recovery, table.n_keys()
        return Vitals(
            at_s=now_s,
            settled=not (app.rebalancing or recovery.in_recovery) and bool(app.consumer.flow_active),
            to_recover=recovery.active_remaining_total() if recovery.in_recovery else 0,
            n_rebalances=app.rebalancing_count,
            partitions=app.consumer.standings(),
            n_users=n_users,
            state_bytes=n_users * processor.state_spec.n_bytes,
            view_age_s=follower.age_s(now_s),
            view_offset=follower.view.offset,
            items_offset=follower.view.items_offset,
            n_items=len(follower.view.catalogue),
            n_corrupt=follower.n_corrupt,
            n_produce_failures=app.producer.n_failed,
            models={arm.variant: arm.bundle.reference for arm in self._service.arms},
            moved=processor.moved(),
        )

    # -- item statistics -----------------------------------------------------------------------------------------------

    def _follow(self, bundle: ServedBundle) -> Follower:
        data = self.config.data
        return Follower(
            self.settings,
            self.names,
            bundle.features.statistics,
            snapshot=None if data is None else data / f"{self.names.prefix}item-statistics.npz",
            refresh=self.config.refresh,
        )

    async def _follow_on(self) -> None:
        try:
            await self._follower.run()
        except Exception as error:
            # A view that no longer moves would go unnoticed; a worker that ends is started again.
            if self._app is not None:
                await self._app.crash(error)
            raise

    async def _save_regularly(self) -> None:
        while True:
            await asyncio.sleep(_SNAPSHOT_S)
            await self._follower.save_beside()

    async def _tidy_regularly(self) -> None:
        while True:
            await asyncio.sleep(_TIDY_S)
            if self._table is not None:
                await self._table.tidy()

    async def _roll_regularly(self) -> None:
        """A step of the window in which features and scores are held against those of training is over."""
        while True:
            await asyncio.sleep(self.config.drift_window_s / STEPS)
            if self._processor is not None:
                self._processor.roll()

    async def _report_items(self) -> None:
        """Items that cannot be used are dead letters too; of all workers, the one that has partition 0 says so."""
        while True:
            await asyncio.sleep(_REPORT_S)
            follower, app = self._follower, self._app
            if app is None or not follower.has_rejected:
                continue
            try:
                rejected = await follower.unreported()
                assigned = app.consumer.assignment()
                if not rejected or not any(tp.topic == self.names.events and tp.partition == 0 for tp in assigned):
                    continue
                topic = self.names.items
                letters = [(letter_key(topic, 0, each), dead_letter(each, topic, 0)) for each in rejected]
                await delivered(produce(app, self.names.dead_letters, 0, letters))
                await follower.mark_reported(rejected)
            except KafkaError as error:
                logger.warning("items that cannot be used are not reported yet: %s", error)
                continue
            for each in rejected:
                self.counters.count_dead_letter(each.reason.value)
            self.counters.n_items_refused += len(rejected)

    # -- bundles -------------------------------------------------------------------------------------------------------

    def _load(self, path: Path) -> Service:
        config = self.config
        return load_service(path, n=config.n_items, seen=config.seen, forget_after_ms=config.forget_after_ms)

    def _make_processor(self, service: Service, follower: Follower) -> Processor:
        return Processor(
            service.arms,
            follower.view,
            assignment=service.assignment,
            limits=self.config.limits,
            counters=self.counters,
            shadows=Shadows(service.shadows, self.shadow_counters) if service.shadows else None,
            user_keys=self.config.user_keys,
            retention=self._retention,
        )

    async def _score_shadows(self) -> None:
        """Score what waits in the shadow, for a tenth of the time at most; what becomes of it concerns nobody else."""
        while True:
            processor, app = self._processor, self._app
            shadows = None if processor is None else processor.shadows
            if app is None or processor is None or shadows is None or shadows.n_waiting == 0:
                await asyncio.sleep(_SHADOW_IDLE_S)
                continue
            began_s = time.perf_counter()
            sends = shadows.score(processor.view)
            took_s = time.perf_counter() - began_s
            if sends is not None and self._has_shadow_topic:
                try:
                    for delivery in produce(app, self.names.shadow, sends.partition, sends.pairs, lane=Lane.BEHIND):
                        delivery.future.add_done_callback(partial(_sent_in_the_shadow, shadows))
                except Exception as error:  # noqa: BLE001 - counted and logged; what is published must not suffer
                    shadows.failed_to_send(error)
            await asyncio.sleep(took_s * (1 / _SHADOW_SHARE - 1))

    async def _watch_bundle(self) -> None:
        while True:
            await asyncio.sleep(self.config.watch_s)
            # Hashing a large model takes a while, and events must not wait for it.
            is_new = await asyncio.get_running_loop().run_in_executor(None, self._watcher.poll)
            if self._watcher.problem is not None and self._watcher.problem is not self.problem:
                self._refuse(self._watcher.problem)
            if not is_new:
                continue
            try:
                await self.exchange(self.config.bundle)
                self.problem = None
            except Exception as error:  # noqa: BLE001 - whatever is wrong with the new one, the old one serves on
                self._refuse(error)

    def _refuse(self, problem: Exception) -> None:
        self.problem = problem
        self.observed.exchanges.n_refused += 1
        self.observed.exchanges.is_refused = True
        logger.warning("the new bundle is not used, %s serves on: %s", self.reference, problem)

    async def exchange(self, path: Path) -> None:
        """Serve with another bundle or experiment from the next batch on, which is verified and warmed up first.

        If it wants other item statistics, they are built from the topic first, while the old one serves.

        Args:
            path: a bundle folder, a channel or an experiment file.

        Raises:
            BundleError: it is refused; nothing has changed.
        """
        loop = asyncio.get_running_loop()
        service = await loop.run_in_executor(None, self._load, path)
        bundle = service.arms[0].bundle
        follower = self._follower
        try:
            if bundle.features.statistics != self.bundle.features.statistics:
                follower = self._follow(bundle)
                await follower.start()
            processor = self._make_processor(service, follower)
            await loop.run_in_executor(None, processor.warm_up)
        except BaseException:
            if follower is not self._follower:
                await follower.stop()
            raise
        before, self._service, self._processor = self.reference, service, processor
        if follower is not self._follower:
            old, self._follower = self._follower, follower
            for task in list(self._background):
                if task.get_name() == "follow":
                    task.cancel()
            await old.stop()
            self._spawn(self._follow_on())
        self.observed.exchanges.n_done += 1
        self.observed.exchanges.is_refused = False
        logger.info("%s serves from now on instead of %s", service.reference, before)

    # -- topics --------------------------------------------------------------------------------------------------------

    async def _look_at_topics(self) -> None:
        names = self.names
        found = await asyncio.get_running_loop().run_in_executor(
            None,
            topic_partitions,
            self.settings,
            (
                names.events,
                names.recommendations,
                names.items,
                names.item_activity,
                names.dead_letters,
                names.forgotten,
                names.changelog,
                names.shadow,
            ),
        )
        missing = [name for name, n in found.items() if n is None and name != names.shadow]
        if missing:
            prefix = f" --prefix {names.prefix}" if names.prefix else ""
            raise PolytempoError(
                f"topics are missing: {', '.join(missing)}.", f"Create them with `polytempo topics{prefix}`."
            )
        n_events = found[names.events] or 0
        for name in (names.recommendations, names.changelog):
            if found[name] != n_events:
                raise PolytempoError(
                    f"{name} has {found[name]} partitions where {names.events} has {n_events}.",
                    "They must agree, so that a user's event, state and recommendation share a partition.",
                )
        if found[names.item_activity] != 1 or found[names.items] != 1:
            raise PolytempoError(f"{names.item_activity} and {names.items} must have exactly one partition.")
        self._partitions = n_events
        self._n_letter_partitions = found[names.dead_letters] or 1
        self._has_shadow_topic = found[names.shadow] == n_events
        if self._service.shadows and not self._has_shadow_topic:
            logger.warning(
                "what is scored in the shadow is lost: %s does not have %s partitions", names.shadow, n_events
            )

    async def _look_at_history(self) -> None:
        """Refuse an events topic that was made anew beside old states: its events would look like replays."""
        names = self.names
        strange = await self._follower.not_counted_here(names.events, self._partitions)
        if strange:
            raise PolytempoError(
                f"{names.events} was deleted and made anew: {names.item_activity} counts events of its partition "
                f"{strange[0]} that it never had.",
                f"Delete {names.changelog}, {names.item_activity}, {names.forgotten} and the group {names.app_id} "
                "as well, or begin with another --prefix.",
            )

    def _spawn(self, coroutine: Awaitable[Any]) -> None:
        task = asyncio.ensure_future(coroutine)
        if getattr(coroutine, "__name__", "") == "_follow_on":
            task.set_name("follow")
        self._background.add(task)
        task.add_done_callback(self._forget_task)

    def _forget_task(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("a background task failed", exc_info=task.exception())


def _sent_in_the_shadow(shadows: Shadows, future: asyncio.Future[Any]) -> None:
    try:
        future.result()
    except asyncio.CancelledError:
        return
    except Exception as error:  # noqa: BLE001 - see Worker._score_shadows
        shadows.failed_to_send(error)


async def _unless(stop: asyncio.Event, work: Awaitable[None]) -> bool:
    """Whether `work` was done; False if `stop` was set first, which cancels it."""
    doing, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({doing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            await doing
        return doing.done()
    finally:
        for task in (doing, stopping):
            if not task.done():
                task.cancel()
        await asyncio.gather(doing, stopping, return_exceptions=True)


def _runs(activities: Sequence[ActivityBatch], most: int) -> Iterator[list[ActivityBatch]]:
    """Activities of one partition in runs of at most so many entries, each starting where the one before it ended."""
    run: list[ActivityBatch] = []
    for activity in activities:
        if run and (activity.first != run[-1].last + 1 or sum(map(len, run)) + len(activity) > most):
            yield run
            run = []
        run.append(activity)
    if run:
        yield run
