"""Trouble with what comes in: malformed, hot, repeated, from wrong clocks, deleted before it was read."""

from __future__ import annotations

import asyncio
import uuid

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.records_to_delete import RecordsToDelete

from tests.faults.round import START_S, Round, Scenario
from tests.faults.traffic import a_year_ahead, duplicated, from_a_hot_user, poisoned
from tests.worker.cluster import Cluster

__all__ = ["SCENARIOS"]


async def nothing_else(round_: Round) -> None:
    """The events are trouble enough."""
    await round_.serving("a", "b")
    async with round_.under_load():
        pass


async def clocks(round_: Round) -> None:
    """What comes from a year ahead is refused, what comes from minutes ahead counts, and nobody's windows freeze."""
    await nothing_else(round_)
    reasons = [letter["reason"] for letter in await round_.cluster.dead_letters()]
    round_.remarks["future"] = reasons.count("future")
    assert round_.remarks["future"] > 0


async def _admin(round_: Round) -> AIOKafkaAdminClient:
    admin = AIOKafkaAdminClient(bootstrap_servers=round_.cluster.broker)
    await admin.start()
    return admin


async def retention(round_: Round) -> None:
    """Nobody reads for a while, and half of what waits is deleted: the rest goes on from where it begins."""
    cluster, topic = round_.cluster, round_.cluster.names.events
    workers = await round_.serving("a", "b")
    async with round_.under_load():
        await round_.pause(2, 3)
    await cluster.caught_up()
    await asyncio.gather(*(worker.stopped() for worker in workers))
    seen = await cluster.partitions(topic, cluster.n_partitions)
    async with round_.under_load():
        pass
    whole = await cluster.partitions(topic, cluster.n_partitions)
    first = {
        number: (seen[number][-1].offset + records[-1].offset) // 2 for number, records in enumerate(whole) if records
    }
    admin = await _admin(round_)
    try:
        await admin.delete_records(
            {TopicPartition(topic, number): RecordsToDelete(before_offset=offset) for number, offset in first.items()}
        )
    finally:
        await admin.close()
    round_.events = [
        [*before, *(record for record in records if record.offset >= first[number])]
        for number, (before, records) in enumerate(zip(seen, whole, strict=True))
    ]
    round_.remarks["deleted"] = sum(map(len, whole)) - sum(map(len, round_.events))
    await round_.serving("a", "b")


async def recreated(round_: Round) -> None:
    """The topic is deleted and made anew under the workers: they end and say so, and refuse to begin again beside
    states of the old one; under another prefix all goes on."""
    cluster, names = round_.cluster, round_.cluster.names
    workers = await round_.serving("a", "b")
    async with round_.under_load():
        await round_.pause(2, 3)
    await cluster.caught_up()
    admin = await _admin(round_)
    try:
        await admin.delete_topics([names.events])
        made = False
        async with asyncio.timeout(30):
            while not made:
                await asyncio.sleep(0.5)
                answer = await admin.create_topics([NewTopic(names.events, cluster.n_partitions, 1)])
                made = all(error[1] == 0 for error in answer.topic_errors)
    finally:
        await admin.close()
    await cluster.send((pair for pair, _ in zip(round_.traffic(200, round_.seed), range(400), strict=False)))
    statuses = [await worker.ended(120) for worker in workers]
    assert all(status != 0 for status in statuses), statuses
    for worker in (*workers, round_.worker("c")):
        await worker.ended(START_S)
        said = " ".join(worker.stderr.read_text(errors="replace").split())
        assert "made anew" in said, said[-1500:]
    round_.cluster = Cluster(cluster.settings, f"round-{uuid.uuid4().hex[:8]}-", cluster.workdir / "anew")
    round_.cluster.create()
    await round_.serving("d")
    async with round_.under_load():
        pass


SCENARIOS = {
    "poison": Scenario("a third of the messages malformed, of every kind", nothing_else, traffic=poisoned),
    "hot-user": Scenario("one user with 30 % of the events", nothing_else, traffic=from_a_hot_user),
    "producers": Scenario("a fifth of the events sent twice, and 200 at a time in any order", nothing_else, duplicated),
    "clocks": Scenario("events from clocks a year ahead", clocks, traffic=a_year_ahead),
    "topic-recreated": Scenario("the events topic deleted and made anew under running workers", recreated),
    "retention": Scenario("events deleted before the group has read them", retention),
}
