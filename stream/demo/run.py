"""The demo from end to end: Kafka, topics, workers, a history, a live part, and nothing left of it afterwards."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import polars as pl

from stream.core.events import EventTypes
from stream.demo.script import Script
from stream.demo.workers import WorkerProcess, wait_until_ready
from stream.errors import PolytempoError
from stream.feed import Pace, Produced, produce_frame, produce_items
from stream.kafka.broker import EmbeddedBroker
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import DEFAULT_PARTITIONS, TopicNames, ensure_topics, topic_layout
from stream.live.observer import Figures
from stream.live.reader import Reader

__all__ = ["DemoConfig", "Outcome", "Stage", "run_demo"]

_STALL_S: Final = 90.0


@dataclass(frozen=True, slots=True)
class DemoConfig:
    """How the demo runs.

    Raises ValueError for figures that make none.
    """

    bundle: Path
    types: EventTypes
    """Those of the bundle."""
    n_workers: int = 2
    rate: float = 250.0
    """Events per second of the live part."""
    settings: KafkaSettings | None = None
    """The user's own cluster; None starts a broker."""
    prefix: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.n_workers <= DEFAULT_PARTITIONS:
            raise ValueError(f"the demo has {DEFAULT_PARTITIONS} partitions, so 1 to {DEFAULT_PARTITIONS} workers")
        if self.rate <= 0.0:
            raise ValueError("the rate must be positive")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened."""

    figures: Figures
    """Of the live part."""
    n_history: int
    history_s: float
    """From the first event of the history to its last recommendation."""
    live_s: float


class Stage(Protocol):
    """Where the demo is shown."""

    def say(self, text: str) -> None:
        """Something was done, or is being done now."""

    def progress(self, text: str, n_done: int, n_all: int) -> None:
        """How far something is."""

    def watch(self, reader: Reader, done: Callable[[], bool]) -> None:
        """Show what `reader` reads, polling it, until `done`."""


def run_demo(config: DemoConfig, script: Script, stage: Stage) -> Outcome:
    """Run it all; whatever happens, everything that was started is stopped, and every topic made is deleted.

    Raises:
        PolytempoError: Kafka or a worker does not start, or a worker dies or no longer answers. The folder with the
            workers' logs is then kept, and named.
    """
    with ExitStack() as stack:
        settings, names = stack.enter_context(_cluster(config, stage))
        logs = stack.enter_context(_log_folder(stage))
        workers: list[WorkerProcess] = []
        stack.callback(_stop_all, workers)
        workers.extend(  # one by one: those that run are stopped should the next one fail to start
            WorkerProcess(f"worker-{n}", bundle=config.bundle, settings=settings, prefix=names.prefix, logs=logs)
            for n in range(1, config.n_workers + 1)
        )
        if script.items is not None:
            produce_items(settings, names.items, script.items)
        stage.say(f"{config.n_workers} workers are starting with {config.bundle}")
        wait_until_ready(workers, lambda n: stage.progress("workers ready", n, config.n_workers))
        reader = stack.enter_context(Reader(settings, names, types=config.types, hold=True))

        started_s = time.monotonic()
        with _feeding(settings, names.events, script.history, Pace()) as feeder:
            patience = _Patience(reader, workers, feeder)
            while not patience.is_over():
                reader.poll()
                stage.progress("history answered", reader.observer.n_read - reader.observer.n_open, len(script.history))
        history_s = time.monotonic() - started_s
        stage.say(f"history: {len(script.history):,} events answered in {history_s:.1f} s; none of it is measured")

        reader.count_from_now()
        started_s = time.monotonic()
        with _feeding(settings, names.events, script.live, Pace(rate=config.rate)) as feeder:
            stage.watch(reader, _Patience(reader, workers, feeder).is_over)
        live_s = time.monotonic() - started_s
        figures = reader.observer.figures(time.monotonic())
        stage.say("stopping")
        for worker in workers:
            worker.ask_to_stop()
        return Outcome(figures, len(script.history), history_s, live_s)


@contextmanager
def _cluster(config: DemoConfig, stage: Stage) -> Iterator[tuple[KafkaSettings, TopicNames]]:
    """A broker of our own, or the user's with topics of our own; the topics are there, and gone at the end."""
    if config.settings is None:
        broker = EmbeddedBroker(on_bytes=lambda n_there, n_all: stage.progress("fetching Kafka", n_there, n_all))
        with broker:
            stage.say(f"Kafka runs on {broker.bootstrap}")
            names = TopicNames(config.prefix)
            ensure_topics(broker.settings, topic_layout(names.prefix))
            yield broker.settings, names
        return
    names = TopicNames(f"{config.prefix}polytempo-demo-{uuid.uuid4().hex[:8]}-")
    try:
        ensure_topics(config.settings, topic_layout(names.prefix))
        stage.say(f"topics {names.prefix}... on {config.settings.servers}, deleted at the end")
        yield config.settings, names
    finally:
        _remove(config.settings, names)


def _remove(settings: KafkaSettings, names: TopicNames) -> None:
    """Delete all topics with this prefix, those that Faust makes among them, and the group."""
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

    with suppress(KafkaError):  # what went wrong before is what the user should read
        admin = KafkaAdminClient(**settings.kafka_python())
        try:
            mine = [topic for topic in admin.list_topics() if topic.startswith(names.prefix)]
            if mine:
                admin.delete_topics(mine)
            admin.delete_groups([names.app_id])
        finally:
            admin.close()


@contextmanager
def _log_folder(stage: Stage) -> Iterator[Path]:
    """A folder that is deleted, unless an error leaves it: then it is what explains the error."""
    folder = Path(tempfile.mkdtemp(prefix="polytempo-demo-"))
    try:
        yield folder
    except PolytempoError:
        stage.say(f"the workers' logs are kept in {folder}")
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _stop_all(workers: list[WorkerProcess]) -> None:
    for worker in workers:
        worker.ask_to_stop()
    for worker in workers:
        worker.stop()


class _Feeder(threading.Thread):
    """Sends a table from a thread of its own, so that what comes of it can be watched meanwhile."""

    def __init__(self, settings: KafkaSettings, topic: str, frame: pl.DataFrame, pace: Pace) -> None:
        super().__init__(name="feeder", daemon=True)
        self.outcome: Produced | None = None
        self.error: BaseException | None = None
        self._stopped = threading.Event()
        self._what = (settings, topic, [frame], pace)

    def run(self) -> None:
        settings, topic, frames, pace = self._what
        try:
            self.outcome = produce_frame(settings, topic, frames, pace=pace, stop=self._stopped.is_set)
        except BaseException as error:  # noqa: BLE001 - raised again by `sent`, in the thread that waits
            self.error = error

    def sent(self) -> int | None:
        """Events sent, None while it is still sending; raises what stopped it."""
        if self.error is not None:
            raise self.error
        if self.outcome is None:
            return None
        if self.outcome.failed > 0:
            raise PolytempoError(f"{self.outcome.failed} events could not be sent: {self.outcome.first_error}.")
        return self.outcome.produced

    def stop(self) -> None:
        """End early."""
        self._stopped.set()
        self.join()


@contextmanager
def _feeding(settings: KafkaSettings, topic: str, frame: pl.DataFrame, pace: Pace) -> Iterator[_Feeder]:
    feeder = _Feeder(settings, topic, frame, pace)
    feeder.start()
    try:
        yield feeder
    finally:
        feeder.stop()


class _Patience:
    """Whether everything sent is answered; raises when that cannot be expected any more."""

    def __init__(self, reader: Reader, workers: list[WorkerProcess], feeder: _Feeder) -> None:
        self._reader = reader
        self._workers = workers
        self._feeder = feeder
        self._n_before = reader.observer.n_read
        self._last = (-1, -1)
        self._moved_s = time.monotonic()

    def is_over(self) -> bool:
        """Whether all that was sent has been read and answered.

        Raises:
            PolytempoError: a worker has died, sending failed, or nothing has moved for long.
        """
        for worker in self._workers:
            worker.check()
        observer = self._reader.observer
        n_sent = self._feeder.sent()
        if n_sent is not None and observer.n_read >= self._n_before + n_sent and observer.n_open == 0:
            return True
        here = (observer.n_read, observer.n_open)
        if here != self._last:
            self._last, self._moved_s = here, time.monotonic()
        elif time.monotonic() - self._moved_s > _STALL_S:
            raise PolytempoError(
                f"{observer.n_open:,} events have been without an answer for {_STALL_S:.0f} s.",
                f"The workers' logs: {self._workers[0].log_file.parent}",
            )
        return False
