"""The view of the item statistics, built from a real broker's topics, and its snapshot."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiokafka.admin import AIOKafkaAdminClient

from stream.core.statistics import ItemStatistics
from stream.kafka.topics import ensure_topics, topic_layout
from stream.wire.activity import decode_activity
from stream.worker.follower import Follower, Refresh
from tests.worker.cluster import Cluster, KeyAndValue
from tests.worker.plain import FEATURES
from tests.worker.test_processor import Desk, a_busy_hour, counted

SPEC = FEATURES.statistics


def some_activity(n_messages: int = 30, seed: int = 0) -> list[bytes]:
    """Messages as one worker sends them for 20 events each."""
    desk = Desk()
    outputs = [desk.answer(part) for part in _parts(a_busy_hour(20 * n_messages, seed), 20)]
    return [message for message in map(counted, outputs) if message is not None]


def _parts(records: list[Any], size: int) -> list[list[Any]]:
    return [records[start : start + size] for start in range(0, len(records), size)]


def built_from(messages: list[bytes]) -> ItemStatistics:
    """The view that these messages lead to."""
    view = ItemStatistics(SPEC)
    view.advance([(offset, decode_activity(message)) for offset, message in enumerate(messages)])
    return view


def assert_same_view(one: ItemStatistics, other: ItemStatistics) -> None:
    """Every array, number and offset."""
    mine, theirs = one.snapshot(), other.snapshot()
    assert mine.keys() == theirs.keys()
    for name in mine:
        np.testing.assert_array_equal(mine[name], theirs[name], err_msg=name)


def sent(messages: list[bytes]) -> list[KeyAndValue]:
    return [(b"events/3", message) for message in messages]


@contextlib.asynccontextmanager
async def following(cluster: Cluster, **options: Any) -> AsyncIterator[Follower]:
    """A follower that has caught up."""
    follower = Follower(cluster.settings, cluster.names, SPEC, **options)
    try:
        await follower.start()
        yield follower
    finally:
        await follower.stop()


async def start_reading(cluster: Cluster, snapshot: Path) -> tuple[Follower, int]:
    """A follower that has caught up and disconnected, and how many messages it had to read for it."""
    n_read = 0

    def progress(n_so_far: int, _n_all: int) -> None:
        nonlocal n_read
        n_read = max(n_read, n_so_far)

    follower = Follower(cluster.settings, cluster.names, SPEC, snapshot=snapshot)
    try:
        await follower.start(progress)
    finally:
        await follower.stop()
    return follower, n_read


async def test_a_start_builds_the_view_from_the_whole_topic(cluster: Cluster) -> None:
    """The same that folding the messages gives, at the offset of the last one."""
    messages = some_activity()
    await cluster.send(sent(messages), cluster.names.item_activity)
    async with following(cluster) as follower:
        assert follower.caught_up
        assert follower.view.offset == len(messages) - 1
        assert_same_view(follower.view, built_from(messages))


async def test_what_comes_later_moves_the_view_on(cluster: Cluster) -> None:
    """While it runs, the view follows within the refresh, and items are known."""
    messages = some_activity()
    async with following(cluster, refresh=Refresh(0.05)) as follower:
        assert follower.view.offset == -1
        running = asyncio.ensure_future(follower.run())
        try:
            await cluster.send(sent(messages), cluster.names.item_activity)
            item = json.dumps({"available": False, "title": "Tea"}).encode()
            await cluster.send([(b"item-1", item)], cluster.names.items)
            async with asyncio.timeout(30):
                while follower.view.offset < len(messages) - 1 or follower.view.items_offset < 0:
                    await asyncio.sleep(0.02)
        finally:
            running.cancel()
        number = follower.view.catalogue.number("item-1")
        assert number is not None
        assert not follower.view.catalogue.available[number]
        np.testing.assert_array_equal(follower.view.weight[:40], built_from(messages).weight[:40])


async def test_many_descriptions_of_items_do_not_make_the_view_look_at_all_of_them_often(cluster: Cluster) -> None:
    """What is counted comes at once, items with the next long refresh."""
    messages = some_activity(6)
    async with following(cluster, refresh=Refresh(longest_s=3600.0, shortest_s=0.0, n_entries=1)) as follower:
        follower._listed_s = time.monotonic()
        running = asyncio.ensure_future(follower.run())
        try:
            await cluster.send([(b"item-1", json.dumps({"title": "Tea"}).encode())], cluster.names.items)
            await cluster.send(sent(messages), cluster.names.item_activity)
            async with asyncio.timeout(30):
                while follower.view.offset < len(messages) - 1:
                    await asyncio.sleep(0.02)
            assert follower.view.items_offset == -1
            follower._listed_s -= 3600.0
            async with asyncio.timeout(30):
                while follower.view.items_offset < 0:
                    await asyncio.sleep(0.02)
        finally:
            running.cancel()


async def test_messages_that_two_workers_sent_count_once(cluster: Cluster) -> None:
    """A worker is killed after its activity is out; the next one sends the same events again, cut otherwise.

    first    |0 ... 19|20 ... 39|40 ... 59|
    second            |20 ........ 54|55 ... 84|
    """
    records = a_busy_hour(200)
    first, second = Desk(), Desk()
    messages = [counted(first.answer(records[start : start + 20])) for start in (0, 20, 40)]
    second.answer(records[:20])
    messages += [counted(second.answer(records[start:stop])) for start, stop in ((20, 55), (55, 85))]
    await cluster.send(sent([message for message in messages if message]), cluster.names.item_activity)
    alone = counted(Desk().answer(records[:85]))
    assert alone is not None
    async with following(cluster) as follower:
        once = built_from([alone])
        assert follower.view.counted == once.counted
        np.testing.assert_allclose(follower.view.total, once.total)
        np.testing.assert_array_equal(follower.view.slot_weight[:40], once.slot_weight[:40])


async def test_a_corrupt_message_is_left_out(cluster: Cluster) -> None:
    """The others count; it is counted apart."""
    messages = some_activity(4)
    await cluster.send(
        [*sent([messages[0], b"rubbish", messages[1][:-5], *messages[1:]]), (b"key", None)], cluster.names.item_activity
    )
    async with following(cluster) as follower:
        assert follower.n_corrupt == 3
        np.testing.assert_array_equal(follower.view.weight[:40], built_from(messages).weight[:40])


async def test_with_a_snapshot_only_what_came_since_is_read(cluster: Cluster, tmp_path: Path) -> None:
    """And the view is the same as without."""
    messages, file = some_activity(), tmp_path / "view.npz"
    await cluster.send(sent(messages[:20]), cluster.names.item_activity)
    first, n_read = await start_reading(cluster, file)
    assert n_read == 20
    await first.save_beside()
    await cluster.send(sent(messages[20:]), cluster.names.item_activity)
    second, n_read = await start_reading(cluster, file)
    assert n_read == len(messages) - 20
    assert_same_view(second.view, built_from(messages))
    second.save()
    third, n_read = await start_reading(cluster, file)
    assert n_read == 0
    assert_same_view(third.view, second.view)


async def test_a_snapshot_of_another_topic_is_refused(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The topic was deleted and made anew: shorter, or as long but with other messages."""
    old, new, file = some_activity(20), some_activity(20, seed=5), tmp_path / "view.npz"
    await cluster.send(sent(old), cluster.names.item_activity)
    first, _ = await start_reading(cluster, file)
    first.save()
    admin = AIOKafkaAdminClient(bootstrap_servers=cluster.broker)
    await admin.start()
    await admin.delete_topics([cluster.names.item_activity])
    async with asyncio.timeout(30):
        while cluster.names.item_activity in await admin.list_topics():
            await asyncio.sleep(0.05)
    await admin.close()
    ensure_topics(cluster.settings, topic_layout(cluster.prefix, n_partitions=cluster.n_partitions))
    await cluster.send(sent(new[:5]), cluster.names.item_activity)
    with caplog.at_level(logging.WARNING):
        shorter, _ = await start_reading(cluster, file)
    assert_same_view(shorter.view, built_from(new[:5]))
    assert "made anew" in caplog.text
    await cluster.send(sent(new[5:]), cluster.names.item_activity)
    with caplog.at_level(logging.WARNING):
        as_long, _ = await start_reading(cluster, file)
    assert_same_view(as_long.view, built_from(new))
    assert "belongs to another topic" in caplog.text


@pytest.mark.parametrize("damage", ["truncated", "empty", "no archive", "other statistics", "fields missing"])
async def test_a_snapshot_that_cannot_be_used_is_left_aside(cluster: Cluster, tmp_path: Path, damage: str) -> None:
    """The topic has it all."""
    messages, file = some_activity(8), tmp_path / "view.npz"
    await cluster.send(sent(messages), cluster.names.item_activity)
    first, _ = await start_reading(cluster, file)
    first.save()
    content = file.read_bytes()
    if damage == "other statistics":
        other = ItemStatistics(type(SPEC)())
        np.savez(file.open("wb"), last_digest=np.zeros(16, np.uint8), **other.snapshot())  # type: ignore[arg-type]
    elif damage == "fields missing":
        np.savez(file.open("wb"), last_digest=np.zeros(16, np.uint8))
    else:
        file.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "no archive": b"hello"}[damage])
    second, n_read = await start_reading(cluster, file)
    assert n_read == len(messages)
    assert_same_view(second.view, first.view)


async def test_items_that_cannot_be_used_are_reported_once_whoever_reads_them(cluster: Cluster) -> None:
    """Also those from before the start, and not again by another worker or after a restart."""
    bad = [(b"item-1", b"{"), (b"", b"{}"), (b"item-2", json.dumps({"available": "yes"}).encode())]
    good = [(b"item-3", json.dumps({"title": "Tea"}).encode())]
    await cluster.send([*bad, *good], cluster.names.items)
    async with following(cluster) as one, following(cluster) as other:
        assert [one.has_rejected, other.has_rejected] == [True, True]
        rejected = await one.unreported()
        assert [each.record.offset for each in rejected] == [0, 1, 2]
        assert [each.reason.value for each in rejected] == ["invalid_json", "empty_id", "wrong_type"]
        await one.mark_reported(rejected)
        assert await one.unreported() == await other.unreported() == []
        assert [one.has_rejected, other.has_rejected] == [False, False]
    await cluster.send(bad[:1], cluster.names.items)
    async with following(cluster) as later:
        assert [each.record.offset for each in await later.unreported()] == [4]


def test_a_view_moves_on_by_time_or_by_load_but_not_too_often() -> None:
    """longest 1 s, shortest 0.1 s, or 500 entries"""
    refresh = Refresh(1.0, 0.1, 500)
    assert refresh.due(1.0, 1)
    assert not refresh.due(0.9, 499)
    assert refresh.due(0.1, 500)
    assert not refresh.due(0.05, 10**6)
