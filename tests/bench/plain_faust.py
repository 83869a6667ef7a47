"""The agent that anybody would write in Faust, for comparison: state in a table, one output an event.

Faust flushes its producer before it commits, so what is committed has been delivered, as in the batch path.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

import faust

from stream.batching import serve
from tests.batching.app import OUTPUT, STATE, fold, parse


def make_app(argv: list[str]) -> faust.App:
    args = parse(argv)
    filler = bytes(args.filler_bytes)
    app = faust.App(
        args.group,
        broker=f"kafka://{args.broker}",
        store="memory://",
        datadir=args.datadir,
        topic_partitions=args.partitions,
        producer_acks=-1,
        producer_linger=0.02,
        producer_max_batch_size=1 << 20,
        topic_disable_leader=True,
    )
    table = app.Table("users", key_type=bytes, value_type=bytes, partitions=args.partitions)
    raw = {"key_type": bytes, "value_type": bytes, "value_serializer": "raw", "partitions": args.partitions}
    events = app.topic(args.input, **raw)
    output = app.topic(args.output, **raw)

    async def run(stream: Any) -> None:
        async for event in stream.events():
            message = event.message
            known = table.get(message.key)
            state = (-1, 0, 0) if known is None else STATE.unpack_from(known)
            state = fold(state, message.offset, message.value)
            table[message.key] = STATE.pack(*state) + filler
            value = OUTPUT.pack(message.partition, message.offset, state[2]) + filler
            await output.send(key=message.key, value=value, partition=message.partition)

    app.agent(events, name="worker")(run)
    return app


async def main() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await serve(make_app(sys.argv[1:]), ready=lambda: print("ready", flush=True), stop=stop)


if __name__ == "__main__":
    asyncio.run(main())
