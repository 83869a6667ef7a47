"""One round of trouble: a deployment of its own, a stream of events through all of it, and the accounts at the end."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

from stream.bundle.load import load_bundle
from stream.kafka.broker import EmbeddedBroker
from stream.kafka.settings import KafkaSettings
from tests.faults.accounts import Account, audit
from tests.faults.traffic import traffic
from tests.worker.bundles import bundle
from tests.worker.cluster import Cluster, KeyAndValue, Running

__all__ = ["SESSION_S", "START_S", "Load", "Round", "Scenario", "play"]

SESSION_S = 6.0
"""The shortest that clusters allow by default."""
_N_USERS = 2000
START_S = 300.0
"""On a machine that is busy with other things a start takes minutes."""


@dataclass(frozen=True, slots=True)
class Load:
    """How much happens meanwhile: at least `n_events`, at most four times as many, at `rate` events a second."""

    n_events: int = 15_000
    rate: float = 2_000.0


@dataclass(slots=True)
class Round:
    """What a scenario makes trouble with.

    Attributes:
        cluster: topics of the round's own, and its workers.
        load: how much is sent.
        seed: of the traffic and the moments.
        traffic: (number of users, seed) to events without end.
        broker: to be stopped and hurt, for scenarios that have one of their own.
        bundle: what workers serve with, a folder or a channel.
        events: by partition, what workers have seen, where the topic does not hold it any more.
        remarks: figures for the table's last column.
    """

    cluster: Cluster
    load: Load
    seed: int
    traffic: Callable[[int, int], Iterator[KeyAndValue]]
    broker: EmbeddedBroker | None
    bundle: Path
    moments: random.Random = field(init=False)
    events: Sequence[Sequence[Any]] | None = None
    remarks: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.moments = random.Random(self.seed)

    @property
    def folder(self) -> Path:
        """For files of the round's own."""
        return self.cluster.workdir

    def worker(self, label: str, *options: str, module: str = "stream.cli.main") -> Running:
        """Start one."""
        session = ("--session", f"{SESSION_S:g}s")
        return self.cluster.worker(self.bundle, *session, *options, label=label, module=module)

    async def serving(self, *labels: str) -> list[Running]:
        """Start some, and wait until all answer."""
        workers = [self.worker(label) for label in labels]
        await asyncio.gather(*(worker.ready(START_S) for worker in workers))
        return workers

    async def pause(self, shortest_s: float, longest_s: float) -> None:
        """Wait for a time that is drawn."""
        await asyncio.sleep(self.moments.uniform(shortest_s, longest_s))

    @contextlib.asynccontextmanager
    async def under_load(self, n_users: int = _N_USERS) -> AsyncIterator[None]:
        """Events come while the block runs, and then until there are enough of them."""
        troubled, load = True, self.load
        numbered = enumerate(self.traffic(n_users, self.seed))
        enough = takewhile(lambda sent: sent[0] < load.n_events * (4 if troubled else 1), numbered)
        sending = self.cluster.send((pair for _, pair in enough), rate=load.rate)
        feeding: asyncio.Task[Any] = asyncio.create_task(sending)
        try:
            yield
            troubled = False
            await feeding
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)

    def count(self, words: str) -> int:
        """How often workers have logged this."""
        logs = {worker.stderr for worker in self.cluster.workers}
        return sum(log.read_text(errors="replace").count(words) for log in logs)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of trouble.

    Attributes:
        says: what is done, for people.
        trouble: does it; what it asserts are the scenario's own claims, before the accounts.
        traffic: what is sent meanwhile.
        own_broker: whether the broker itself is hurt.
    """

    says: str
    trouble: Callable[[Round], Awaitable[None]]
    traffic: Callable[[int, int], Iterator[KeyAndValue]] = traffic
    own_broker: bool = False


async def play(
    scenario: Scenario, settings: KafkaSettings, broker: EmbeddedBroker | None, *, seed: int, load: Load
) -> tuple[Account, dict[str, Any]]:
    """One round on topics of its own; the moments of trouble are drawn from `seed`. The verdict, and remarks."""
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="polytempo-round-") as directory:
        cluster = Cluster(settings, f"round-{uuid.uuid4().hex[:8]}-", Path(directory))
        cluster.create()
        round_ = Round(cluster, load, seed, scenario.traffic, broker, bundle("ranker"))
        try:
            await scenario.trouble(round_)
            cluster = round_.cluster
            await cluster.caught_up(240)
            running = [worker for worker in cluster.workers if worker.process.poll() is None]
            said = [await worker.stopped() for worker in running]
            account = await audit(cluster, load_bundle(bundle("ranker")).features, round_.events)
            remarks = {
                **round_.remarks,
                "replayed": sum(each["replayed"] for each in said),
                "duplicates": sum(each["duplicates"] for each in said),
                "seconds": round(time.monotonic() - began_s, 1),
            }
            if not account.sound:
                remarks["logs"] = _keep(directory)
        except Exception as error:
            error.add_note(f"logs in {_keep(directory)}")
            raise
        finally:
            await cluster.kill_all()
            await round_.cluster.kill_all()
        return account, remarks


def _keep(directory: str) -> str:
    """Save the workers' logs from a folder that is about to vanish."""
    kept = tempfile.mkdtemp(prefix="polytempo-failed-round-")
    shutil.copytree(directory, kept, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sst", "data*"))
    return kept
