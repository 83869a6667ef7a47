"""Silent users are removed, nobody else is, and nobody can tell from recommendations when it was done."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from stream.bundle.service import load_service
from stream.core.fold import Folded, fold, source_key
from stream.core.scales import DAY_MS, HOUR_MS
from stream.core.state import newest_ms
from stream.replay.topics import TopicReader
from stream.replay.verify import read_published, verify
from stream.worker.retention import _AT_ONCE, Retention
from tests.core.histories import SMALL, SOURCE, T0_MS, WEIGHTS, Happening, Store, batch_of
from tests.worker.bundles import bundle
from tests.worker.cluster import Cluster, keyed

SPAN_MS = 5 * DAY_MS
YEAR_MS = 365 * DAY_MS


class Swept:
    """A partition's records, folded and swept as the worker does it."""

    def __init__(self) -> None:
        self.store = Store(SMALL)
        self.retention = Retention(SPAN_MS)
        self.removed: list[tuple[str, int]] = []
        """(user, the partition's time)"""
        self.n_most = 0

    def records(self) -> Iterator[tuple[bytes, bytes]]:
        for user in list(self.store.records):
            raw = self.store.records.get(user)
            if raw is not None:
                self._n_looked += 1
                yield user.encode(), raw

    def load(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.store.records.get(key.decode()) for key in keys]

    def step(self, log: list[Happening], first: int, committed: int | None = None) -> Folded:
        batch = batch_of(log, first)
        states = self.store.load(batch.users)
        folded = fold(SMALL, states, batch, source=source_key(SOURCE), weights=WEIGHTS, forget_after_ms=SPAN_MS)
        self._n_looked = 0
        gone = self.retention.step(
            SOURCE, batch.ts_ms, self.records, self.load, first if committed is None else committed
        )
        self.n_most = max(self.n_most, self._n_looked)
        now_ms = self.retention.now_ms(SOURCE)
        for key in gone:
            assert now_ms is not None
            if key.decode() not in batch.users:
                self.removed.append((key.decode(), now_ms))
                del self.store.records[key.decode()]
        self.store.save(batch, folded)
        return folded


def one(user: str, at_ms: int) -> Happening:
    return Happening(user, "x", 0, at_ms)


def traffic(rng: Random) -> list[Happening]:
    """Two dozen users over half a year; time goes on, and an event may be up to a day late."""
    log, now_ms = [], T0_MS
    for _ in range(300):
        now_ms += rng.randrange(30 * HOUR_MS)
        late_ms = rng.randrange(20 * HOUR_MS) if rng.random() < 0.2 else 0
        log.append(one(f"user-{rng.randrange(24)}", now_ms - late_ms))
    return log


@pytest.mark.parametrize("seed", range(20))
def test_when_a_record_is_removed_changes_nothing(seed: int) -> None:
    """Against the same folds over records that all stay, whatever the batches, and looking at few records a step."""
    rng = Random(seed)
    log, swept, whole = traffic(rng), Swept(), Store(SMALL)
    cut = sorted({0, len(log), *rng.sample(range(len(log)), rng.randrange(20, 120))})
    for start, end in pairwise(cut):
        folded = swept.step(log[start:end], start)
        batch = batch_of(log[start:end], start)
        states = whole.load(batch.users)
        plain = fold(SMALL, states, batch, source=source_key(SOURCE), weights=WEIGHTS, forget_after_ms=SPAN_MS)
        whole.save(batch, plain)
        for field in ("n_events", "ring_ms", "count", "session_length"):
            assert folded.after[field].tolist() == plain.after[field].tolist()
        assert folded.states.tobytes() == plain.states.tobytes()
    assert swept.removed
    for user, now_ms in swept.removed:
        times = [event.ts_ms for event in log if event.user == user]
        assert any(now_ms - at_ms > SPAN_MS + DAY_MS for at_ms in times)
    for user, raw in swept.store.records.items():
        assert raw == whole.records[user]


def test_all_who_are_silent_go_in_the_end_and_no_step_looks_at_many() -> None:
    swept = Swept()
    swept.step([one(f"user-{n}", T0_MS + n) for n in range(1000)], 0)
    for step in range(40):
        now_ms = T0_MS + SPAN_MS + DAY_MS + 10_000 + step * SPAN_MS // 50
        swept.step([one("awake", now_ms)] * 20, 1000 + 20 * step)
    assert set(swept.store.records) == {"awake"}
    assert len(swept.removed) == 1000
    assert swept.n_most == _AT_ONCE


def test_one_clock_that_is_a_year_ahead_removes_nobody_else() -> None:
    """A third of a partition's events may lie: its time is the median."""
    swept = Swept()
    swept.step([one(f"user-{n}", T0_MS) for n in range(300)], 0)
    for step in range(50):
        honest = [one(f"user-{n}", T0_MS + step * HOUR_MS) for n in range(20)]
        swept.step([*honest, *[one("ahead", T0_MS + YEAR_MS)] * 10], 300 + 30 * step)
    assert swept.removed == []
    assert newest_ms(swept.store.records["ahead"]) == T0_MS + YEAR_MS


def test_what_may_be_read_again_after_a_crash_stays() -> None:
    swept = Swept()
    swept.step([one("old", T0_MS)], 0)
    for step in range(20):
        now_ms = T0_MS + 2 * SPAN_MS + step * SPAN_MS // 50
        swept.step([one("awake", now_ms)] * 20, 1 + 20 * step, committed=0 if step < 10 else 21)
        assert ("old" in swept.store.records) == (step < 10)


@pytest.mark.parametrize("store", ["memory", "rocksdb"])
async def test_a_worker_takes_silent_users_out_of_its_store_and_out_of_the_changelog(
    cluster: Cluster, store: str, tmp_path: Path
) -> None:
    """
    silent  x x x                        x      begins anew: nothing is its own any more
    awake         | 6 days |  a a a a a    a
    """
    options = ["--forget-after", "4d", "--http", "127.0.0.1:0", "--data", str(tmp_path / "data"), "--store", store]
    worker = cluster.worker(bundle("ranker"), *options)
    await worker.ready()
    began_ms = int(time.time() * 1000) - 20 * DAY_MS
    silent = [f"silent-{n}" for n in range(40)]

    def clicks(users: Sequence[str], at_ms: int, item: str = "item-1") -> list[tuple[bytes, bytes]]:
        return [
            keyed({"user_id": user, "item_id": item, "event_type": "click", "ts_ms": at_ms + n})
            for n, user in enumerate(users)
        ]

    await cluster.send(clicks(silent * 3, began_ms))
    await cluster.caught_up()
    assert {*await last_states(cluster)} == set(silent)
    awake = [f"awake-{n}" for n in range(80)]
    for step in range(100):
        await cluster.send(clicks(awake, began_ms + 6 * DAY_MS + step * 2 * HOUR_MS))
        await cluster.caught_up()
        left = await last_states(cluster)
        if not set(left) & set(silent):
            break
    assert set(left) == set(awake)
    await cluster.send(clicks(silent[:1], began_ms + 16 * DAY_MS, "item-2"))
    await cluster.caught_up()
    raw = (await last_states(cluster))[silent[0]]
    assert newest_ms(raw) == began_ms + 16 * DAY_MS
    newest = max(await cluster.recommendations(), key=lambda each: each["ts_ms"])
    assert newest["user_id"] == silent[0]
    assert not any("own" in item["reasons"] for item in newest["items"] if item["item_id"] == "item-1")
    said = await worker.stopped()
    assert said["removed"] == 40
    with TopicReader(cluster.settings) as reader:
        answers = read_published(reader, cluster.names.recommendations)
    service = load_service(bundle("ranker"), forget_after_ms=4 * DAY_MS)
    verdict = verify(cluster.settings, cluster.names, answers, [service])
    assert verdict.n_identical == verdict.n > 200, verdict.as_json()


async def last_states(cluster: Cluster) -> dict[str, bytes]:
    """What the changelog holds after compaction: the last record of each user, if it is no tombstone."""
    found: dict[str, bytes] = {}
    for record in await cluster.records(cluster.names.changelog, cluster.n_partitions):
        found.pop(record.key.decode(), None)
        if record.value is not None:
            found[record.key.decode()] = record.value
    return found
