"""One writer for each partition of a changelog, with a broker: whoever comes later shuts out whoever came before."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import faust
import pytest
from aiokafka.errors import ProducerFenced

from stream.batching import SETTINGS, use_batches
from stream.batching.fencing import BARRIER_KEY, FencedError, Fences, Writer
from stream.batching.producing import delivered, produce
from tests.batching.audit import Setup, audit, caught_up, feed, read_all


@pytest.fixture
async def setup(broker: str, tmp_path: Path) -> AsyncIterator[Setup]:
    setup = Setup(broker, f"fence-{uuid.uuid4().hex[:8]}", extra=("--session-s", "6"), workdir=tmp_path)
    await setup.create()
    yield setup
    await setup.kill_all()


@pytest.fixture
async def apps(broker: str, tmp_path: Path) -> AsyncIterator[list[faust.App]]:
    """Two apps of which only the producers run."""
    found = []
    for name in "ab":
        app = faust.App(f"fence-{name}", broker=f"kafka://{broker}", **{**SETTINGS, "datadir": str(tmp_path / name)})
        use_batches(app)
        await app.producer.start()
        found.append(app)
    yield found
    for app in found:
        await app.producer.stop()


async def write(app: faust.App, topic: str, value: bytes, writer: Writer) -> tuple[int, int]:
    return await delivered(produce(app, topic, 0, [(b"k", value)], writer))


async def test_the_older_writer_is_refused_and_the_newer_one_is_not(setup: Setup, apps: list[faust.App]) -> None:
    """a takes over, writes | b takes over: barrier | a: refused | b writes."""
    a, b = (Fences(app, setup.changelog) for app in apps)
    await a.take_over([0], 1)
    older = await a.writer(0, 1)
    assert await write(apps[0], setup.changelog, b"a1", older) == (1, 1)
    await b.take_over([0], 2)
    with pytest.raises(ProducerFenced):
        await write(apps[0], setup.changelog, b"a2", older)
    assert await write(apps[1], setup.changelog, b"b1", await b.writer(0, 2)) == (3, 3)
    written = (await read_all(setup.broker, setup.changelog, setup.partitions))[0]
    assert [(record.key, record.value) for record in written] == [
        (BARRIER_KEY, None),
        (b"k", b"a1"),
        (BARRIER_KEY, None),
        (b"k", b"b1"),
    ]


async def test_a_writer_belongs_to_one_generation(setup: Setup, apps: list[faust.App]) -> None:
    """What was computed before a rebalance is not signed with the rights from after it."""
    fences = Fences(apps[0], setup.changelog)
    await fences.take_over([0], 1)
    await fences.take_over([0, 1], 2)
    with pytest.raises(FencedError):
        await fences.writer(0, 1)
    with pytest.raises(FencedError):
        await fences.writer(2, 2)
    assert (await fences.writer(1, 2)).generation == 2


async def test_the_right_to_write_is_renewed_by_its_owner_only(
    setup: Setup, apps: list[faust.App], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brokers forget what is not used for days. Who was replaced meanwhile must not become the newest again."""
    a, b = (Fences(app, setup.changelog) for app in apps)
    await a.take_over([0], 1)
    older = await a.writer(0, 1)
    assert await write(apps[0], setup.changelog, b"a1", older) == (1, 1)
    epoch, now_s = older.epoch, time.monotonic()
    monkeypatch.setattr("stream.batching.fencing.time.monotonic", lambda: now_s + 13 * 3600)
    renewed = await asyncio.gather(a.writer(0, 1), a.writer(0, 1))
    assert [each.epoch for each in renewed] == [epoch + 1] * 2
    assert await write(apps[0], setup.changelog, b"a2", older) == (2, 2)
    await b.take_over([0], 2)
    monkeypatch.setattr("stream.batching.fencing.time.monotonic", lambda: now_s + 26 * 3600)
    with pytest.raises(FencedError):
        await a.writer(0, 1)


async def test_many_batches_in_a_row_keep_their_sequence(setup: Setup, apps: list[faust.App]) -> None:
    """Sequence numbers count records, and start anew with each takeover."""
    fences = Fences(apps[0], setup.changelog)
    for generation in (1, 2):
        await fences.take_over([0], generation)
        writer = await fences.writer(0, generation)
        pairs: list[tuple[bytes | None, bytes | None]] = [(b"%d" % i, bytes(1000)) for i in range(1500)]
        deliveries = [produce(apps[0], setup.changelog, 0, pairs, writer) for _ in range(3)]
        for each in deliveries:
            await delivered(each)
        assert writer.sequence == 1 + 3 * 1500


@pytest.mark.timeout(180)
async def test_a_zombie_cannot_write_an_older_state_behind_a_newer_one(setup: Setup) -> None:
    """Worker a stops between its last look at the group and its write; b takes over and goes further; a goes on.

    a   apply ... check membership │ stopped ················ │ write: refused, rejoin
    b                              │ takes over, applies more │
    """
    zombie = setup.worker("a", "--stop-at", "300")
    await zombie.ready()
    await feed(setup, 4_000)
    await zombie.says("stopping")
    other = setup.worker("b")
    await other.applying()
    await feed(setup, 4_000, start=4_000)
    await caught_up(setup)
    before = await audit(setup)
    assert before.sound
    os.kill(zombie.process.pid, signal.SIGCONT)
    await feed(setup, 400, n_users=20, start=8_000)  # few users: a state that became old again would stay so
    await caught_up(setup)
    await other.stop()  # the zombie is a member again, and serves from what the changelog says
    await feed(setup, 4_000, start=8_400)
    await caught_up(setup)
    assert (await audit(setup)).sound
    assert await zombie.stop() == 0
