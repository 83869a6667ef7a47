"""The same job in the usual way of Faust, event by event: `python -m tests.bench.peer_faust '{...}'`.

An agent that iterates over `stream.events()`, a `faust.Table` of bytes, `await topic.send(...)`, as the documentation
of Faust shows it. What it does with an event is the product's own code, with a batch of one: same decoding, fold,
features, bundle, rules and messages; it publishes item activity and follows it with the product's own follower, which
reads in bulk and so costs the peer less than an agent would.

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
from typing import Any

import faust

from stream.batching import serve
from stream.bundle.load import load_bundle
from stream.core.seam import Policy
from stream.worker.follower import Follower
from stream.worker.processor import Processor
from tests.bench.path_worker import Options, run_until_stopped, say

__all__ = ["main", "make_app"]


@dataclass(slots=True)
class _Record:
    """A Faust message as the processor reads records."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


@dataclass(slots=True)
class _Spent:
    """CPU time inside the product's own code."""

    core_ns: int = 0


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
    users = app.Table("users", partitions=n_partitions, **raw)

    async def recommend(stream: Any) -> None:
        async for event in stream.events():
            message = event.message
            record = _Record(message.offset, int(message.timestamp * 1000), message.key, message.value)

            def load(keys: Sequence[bytes]) -> list[bytes | None]:
                return [users.get(key) for key in keys]

            began_ns = time.thread_time_ns()
            output = processor.process(
                [record],
                load,
                topic=message.topic,
                partition=message.partition,
                covers=(message.offset, message.offset),
            )
            spent.core_ns += time.thread_time_ns() - began_ns
            for user, state in output.writes.items():
                if state is None:
                    users.pop(user, None)
                else:
                    users[user] = state
            for key, value in output.recommendations:
                await recommendations.send(key=key, value=value, partition=message.partition)
            if output.activity is not None:
                await activity.send(key=message.topic.encode(), value=output.activity, partition=0)
            for key, value in output.dead_letters:
                await dead_letters.send(key=key, value=value)

    app.agent(events, name=f"{names.app_id}.recommend")(recommend)
    return app


async def main(stop: asyncio.Event) -> None:
    """Serve until `stop`."""
    options = Options.read()
    options.pin()
    bundle = load_bundle(Path(options.bundle))
    follower = Follower(options.settings, options.names, bundle.features.statistics)
    await follower.start()
    policy = Policy(bundle.manifest.policy.n, bundle.manifest.policy.seen)
    processor = Processor(bundle, follower.view, policy=policy)
    processor.warm_up()
    following = asyncio.ensure_future(follower.run())
    spent, began_ns = _Spent(), time.process_time_ns()

    def ready() -> None:
        nonlocal began_ns
        spent.core_ns, began_ns = 0, time.process_time_ns()
        say(ready=True)

    try:
        with tempfile.TemporaryDirectory() as scratch:
            await serve(make_app(options, processor, Path(scratch), spent), ready=ready, stop=stop)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await follower.stop()
    all_ns = time.process_time_ns() - began_ns
    stages_us = {"core, batch of one": spent.core_ns / 1000, "faust and clients": (all_ns - spent.core_ns) / 1000}
    say(n_batches=processor.counters.n_records, stages_us=stages_us)


if __name__ == "__main__":
    run_until_stopped(main)
