"""Workers as processes of their own, against a broker."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import faust
import pytest
from aiokafka import AIOKafkaProducer

from stream.batching import SETTINGS, RecordTooLargeError, use_batches
from stream.batching.producing import delivered, produce
from tests.batching.audit import Setup, audit, caught_up, feed, read_all
from tests.faults.batching_rounds import one_round


@pytest.fixture
async def setup(broker: str, tmp_path: Path) -> AsyncIterator[Setup]:
    setup = Setup(broker, f"test-{uuid.uuid4().hex[:8]}", workdir=tmp_path)
    await setup.create()
    yield setup
    await setup.kill_all()


async def test_every_event_has_its_output_and_every_state_is_right(setup: Setup) -> None:
    """In one pass, without trouble, nothing is repeated."""
    worker = setup.worker("a")
    await worker.ready()
    await feed(setup, 20_000)
    await caught_up(setup)
    verdict = await audit(setup)
    assert verdict.sound
    assert (verdict.n_inputs, verdict.n_repeated) == (20_000, 0)
    assert await worker.stop() == 0


async def test_while_nothing_happens_aiokafkas_routine_is_not_asked(setup: Setup) -> None:
    """The reader fetches by itself, and what it reads is right; a few fetches before it has begun are aiokafka's."""
    worker = setup.worker("a", "--count-fetches")
    await worker.ready()
    await feed(setup, 1_000)
    await caught_up(setup)
    n_before = worker.said().count("fetched\n")
    await feed(setup, 1_000, rate=1_000, start=1_000)
    await caught_up(setup)
    said = worker.said()
    assert said.count("read\n") > 5
    assert said.count("fetched\n") - n_before < said.count("read\n") / 2
    assert (await audit(setup)).sound


async def test_a_graceful_stop_commits_and_the_next_start_recovers_and_goes_on(setup: Setup) -> None:
    """Stopped in the middle of the stream: nothing repeated, states from the changelog."""
    feeding = asyncio.ensure_future(feed(setup, 20_000, rate=10_000))
    first = setup.worker("a")
    await first.applying()
    assert await first.stop() == 0
    second = setup.worker("a")
    await second.ready()
    await feeding
    await caught_up(setup)
    verdict = await audit(setup)
    assert verdict.sound
    assert verdict.n_repeated == 0


async def test_a_failing_step_ends_the_process_and_loses_nothing(setup: Setup) -> None:
    """It exits non-zero; the next worker does what it did not."""
    await feed(setup, 4_000)
    failing = setup.worker("a", "--fail-at", "600")
    assert await failing.ended() != 0
    assert "asked to fail" in failing.stderr.read_text()
    await setup.worker("b").ready()
    await caught_up(setup)
    assert (await audit(setup)).sound


async def test_transaction_markers_are_holes_that_are_read_twice_and_accepted(setup: Setup) -> None:
    """Each commit marker takes an offset that no consumer ever sees."""
    worker = setup.worker("a")
    await worker.ready()
    producer = AIOKafkaProducer(bootstrap_servers=setup.broker, transactional_id=setup.name)
    await producer.start()
    for i in range(5):
        async with producer.transaction():
            for j in range(20):
                await producer.send(setup.input, b"%d" % (i * 20 + j), key=b"t%d" % (j % 2), partition=j % 2)
    await producer.stop()
    await feed(setup, 400)  # records behind the last markers, so that everything can be committed to the end
    await caught_up(setup)
    verdict = await audit(setup)
    assert verdict.sound
    assert (verdict.n_inputs, verdict.n_repeated) == (500, 0)
    assert "reading again" in worker.stderr.read_text()


async def test_a_rebalance_while_preparing_repeats_it_and_loses_nothing(setup: Setup) -> None:
    """The second worker arrives while the first is still in its prepare."""
    await feed(setup, 4_000)
    gate = setup.workdir / "gate"
    first = setup.worker("a", "--prepare-until", str(gate))
    await first.applying()
    second = setup.worker("b")
    await second.applying()
    gate.touch()
    await caught_up(setup)
    assert (await audit(setup)).sound
    partitions = [line.split()[1] for line in first.said().splitlines() if line.startswith("prepared")]
    assert len(partitions) > len(set(partitions))


async def test_a_standby_takes_over_without_losing_a_state(setup: Setup) -> None:
    """Killed, not stopped; the other worker has its states already."""
    workers = [setup.worker(label, "--standbys", "1") for label in "ab"]
    await asyncio.gather(*(worker.ready() for worker in workers))
    await feed(setup, 10_000)
    await caught_up(setup)
    await workers[0].kill()
    await feed(setup, 10_000, start=10_000)
    await caught_up(setup)
    assert (await audit(setup)).sound


async def test_a_rocksdb_store_survives_kill_9(setup: Setup) -> None:
    """It is never ahead of the changelog, so it may be trusted as it is."""
    pytest.importorskip("rocksdict")
    feeding = asyncio.ensure_future(feed(setup, 20_000, rate=5_000))
    first = setup.worker("a", "--store", "rocksdb://")
    await first.applying()
    await first.kill()
    second = setup.worker("a", "--store", "rocksdb://")
    await second.ready()
    await feeding
    await caught_up(setup)
    assert (await audit(setup)).sound


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_round_of_kills_and_rebalances_loses_nothing(broker: str, seed: int) -> None:
    """More of them: python -m tests.faults.batching_rounds 20."""
    verdict = await one_round(broker, n_events=10_000, rate=5_000, store="memory://", standbys=0, seed=seed)
    assert verdict.sound


@pytest.fixture
async def app(broker: str, tmp_path: Path) -> AsyncIterator[faust.App]:
    """An app of which only the producer runs."""
    app = faust.App("producing", broker=f"kafka://{broker}", **{**SETTINGS, "datadir": str(tmp_path)})
    use_batches(app)
    await app.producer.start()
    yield app
    await app.producer.stop()


async def test_batches_are_split_when_full_and_keep_their_order(app: faust.App, setup: Setup) -> None:
    """3,000 records of 1 KiB are three batches of at most 1 MiB, on the partition asked for; keys and values may be
    None."""
    pairs: list[tuple[bytes | None, bytes | None]] = [(b"%d" % i, bytes(1000)) for i in range(3000)]
    pairs += [(None, b"no key"), (b"deleted", None)]
    deliveries = produce(app, setup.output, 2, pairs)
    assert len(deliveries) == 3
    assert await delivered(deliveries) == (0, 3001)
    written = await read_all(setup.broker, setup.output, setup.partitions)
    assert [len(records) for records in written] == [0, 0, 3002, 0]
    assert [(record.key, record.value) for record in written[2]] == pairs


async def test_a_record_too_large_is_named_with_topic_and_size(app: faust.App, setup: Setup) -> None:
    """Nothing that would stand behind it is sent."""
    with pytest.raises(RecordTooLargeError, match=rf"'{setup.output}' has 2000001 bytes, the limit is 1048576"):
        produce(app, setup.output, 0, [(b"k", bytes(2_000_000))])
