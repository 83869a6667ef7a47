"""The same job in the usual way of Faust: `python -m tests.bench.peer_faust '{...}'`, in one of two formulations.

`event`, the default: an agent that iterates over `stream.events()`, a `faust.Table` of bytes, `await topic.send(...)`,
as the documentation of Faust shows it. What it does with an event is the product's own code, with a batch of one.

`take`: the same with `stream.take_events(...)`, so that the model scores up to a whole batch at once. Writes and sends
are still one by one, since Faust has no other. The table takes its partitions from the keys (`use_partitioner`),
because outside of a single event Faust cannot know one.

Unless the statistics are fixed, it publishes item activity and follows it with the product's own follower, which reads
in bulk and so costs the peer less than an agent would.

Tuned as the documentation suggests for throughput: the producer lingers for 20 ms and sends batches of up to 1 MiB
(linger 0, the default, halves it), bytes are not serialised again (`raw`), no leader topic, no web server, states in
memory. Delivery is as safe as in the product: acks=all, and Faust flushes its producer before it commits.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import faust
from faust.types import TP

from stream.batching import serve
from stream.bundle.load import load_bundle
from stream.bundle.service import Arm
from stream.core.seam import Policy
from stream.wire.activity import encode_activity
from stream.worker.follower import Follower
from stream.worker.processor import Processor
from tests.bench.path_options import Options, run_until_stopped, say
from tests.bench.peer_job import Record

__all__ = ["main", "make_app"]

_WITHIN_S: Final = 0.05


@dataclass(slots=True)
class _Spent:
    """CPU time inside the product's own code."""

    core_ns: int = 0
    n_calls: int = 0


def make_app(options: Options, processor: Processor, datadir: Path, spent: _Spent) -> faust.App:
    """The app: one agent, one table."""
    names, n_partitions = options.names, options.n_partitions
    app = faust.App(
        names.app_id,
        **options.settings.faust(),
        store="memory://",
        datadir=str(datadir),
        topic_partitions=n_partitions,
        key_serializer="raw",
        value_serializer="raw",
        producer_acks=-1,
        producer_linger=0.02,
        producer_max_batch_size=1 << 20,
        topic_disable_leader=True,
        web_enabled=False,
        autodiscover=False,
    )
    raw = {"key_type": bytes, "value_type": bytes}
    events = app.topic(names.events, partitions=n_partitions, **raw)
    recommendations = app.topic(names.recommendations, partitions=n_partitions, **raw)
    activity = app.topic(names.item_activity, partitions=1, **raw)
    dead_letters = app.topic(names.dead_letters, **raw)
    takes = options.formulation == "take"
    users = app.Table("users", partitions=n_partitions, use_partitioner=takes, **raw)

    def load(keys: Sequence[bytes]) -> list[bytes | None]:
        return [users.get(key) for key in keys]

    async def answer(topic: str, partition: int, records: list[Record]) -> None:
        began_ns = time.thread_time_ns()
        covers = (records[0].offset, records[-1].offset)
        output = processor.process(records, load, topic=topic, partition=partition, covers=covers)
        spent.core_ns += time.thread_time_ns() - began_ns
        spent.n_calls += 1
        for user, state in output.writes.items():
            if state is None:
                users.pop(user, None)
            else:
                users[user] = state
        for key, value in output.recommendations:
            await recommendations.send(key=key, value=value, partition=partition)
        if output.activity is not None and not options.fixed_view:
            await activity.send(key=topic.encode(), value=encode_activity(output.activity), partition=0)
        for key, value in output.dead_letters:
            await dead_letters.send(key=key, value=value)

    async def by_event(stream: Any) -> None:
        async for event in stream.events():
            await answer(event.message.topic, event.message.partition, [_record(event.message)])

    async def by_take(stream: Any) -> None:
        async for taken in stream.take_events(options.max_events, within=_WITHIN_S):
            records: dict[TP, list[Record]] = {}
            for event in taken:
                records.setdefault(event.message.tp, []).append(_record(event.message))
            for tp, each in records.items():
                await answer(tp.topic, tp.partition, each)

    app.agent(events, name=f"{names.app_id}.recommend")(by_take if takes else by_event)
    return app


def _record(message: Any) -> Record:
    return Record(message.offset, int(message.timestamp * 1000), message.key, message.value)


async def main(stop: asyncio.Event) -> None:
    """Serve until `stop`."""
    options = Options.read()
    options.pin()
    bundle = load_bundle(Path(options.bundle))
    follower = Follower(options.settings, options.names, bundle.features.statistics)
    await follower.start()
    policy = Policy(bundle.manifest.policy.n, bundle.manifest.policy.seen)
    processor = Processor([Arm("default", bundle, policy)], follower.view)
    processor.warm_up()
    following = None if options.fixed_view else asyncio.ensure_future(follower.run())
    spent, began_ns = _Spent(), time.process_time_ns()

    def ready() -> None:
        nonlocal began_ns
        spent.core_ns, spent.n_calls, began_ns = 0, 0, time.process_time_ns()
        say(ready=True)

    try:
        with tempfile.TemporaryDirectory() as scratch:
            await serve(make_app(options, processor, Path(scratch), spent), ready=ready, stop=stop)
    finally:
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        await follower.stop()
    all_ns = time.process_time_ns() - began_ns
    stages_us = {"core": spent.core_ns / 1000, "frame and clients": (all_ns - spent.core_ns) / 1000}
    say(n_batches=spent.n_calls, stages_us=stages_us)


if __name__ == "__main__":
    run_until_stopped(main)
