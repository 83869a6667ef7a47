"""A worker to be run as a process of its own: `python -m tests.batching.app --help`.

The state of a user is (last applied offset, number of events, checksum over the user's events in order), so that a
lost, reordered or twice applied event shows. The output of an event names its partition and offset.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import faust

from stream.batching import (
    SETTINGS,
    Applied,
    BatchTable,
    FetchSettings,
    Load,
    RecordBatch,
    Send,
    batch_topic,
    one_by_one,
    run_batches,
    serve,
    settling,
    use_batches,
)

STATE = struct.Struct(">qqI")
OUTPUT = struct.Struct(">iqI")


def fold(state: tuple[int, int, int], offset: int, value: bytes) -> tuple[int, int, int]:
    """One event on a state (last offset, count, checksum)."""
    return offset, state[1] + 1, crc32(value, state[2])


def make_step(output: str, filler: bytes = b"") -> Any:
    """The step of the test app: state, changelog and one output an event."""

    def step(batch: RecordBatch, load: Load) -> Applied:
        keys = list({record.key: None for record in batch.records})
        states = {
            key: (-1, 0, 0) if raw is None else STATE.unpack_from(raw)
            for key, raw in zip(keys, load(keys), strict=True)
        }
        pairs: list[tuple[bytes | None, bytes | None]] = []
        for record in batch.records:
            state = states[record.key]
            if record.offset <= state[0]:
                continue
            states[record.key] = state = fold(state, record.offset, record.value)
            pairs.append((record.key, OUTPUT.pack(batch.tp.partition, record.offset, state[2]) + filler))
        writes: dict[bytes, bytes | None] = {key: STATE.pack(*state) + filler for key, state in states.items()}
        return Applied(writes, [Send(output, batch.tp.partition, pairs)])

    return step


def stop_before_the_changelog(app_id: str, at: int) -> None:
    """Stop this process once, between the last look at the group and the sending of a state that holds offset `at`."""
    put, stopped = settling.put, False

    def put_late(app: Any, topic: str, partition: int, pairs: Any, *rest: Any, **named: Any) -> Any:
        nonlocal stopped
        pairs = list(pairs)
        if topic == f"{app_id}-users-changelog" and not stopped:
            stopped = any(value is not None and STATE.unpack_from(value)[0] >= at for _, value in pairs)
            if stopped:
                print("stopping", flush=True)
                os.kill(os.getpid(), signal.SIGSTOP)
        return put(app, topic, partition, pairs, *rest, **named)

    settling.put = put_late


def count_fetches(app: faust.App) -> None:
    """Say when the reader got records by itself, and whenever aiokafka fetched for it."""
    consumer = app.consumer._thread
    reader = consumer._reader_of(consumer._ensure_consumer())
    arrived, fetch = reader.arrived, reader._fetch

    def arrived_here(*args: Any) -> None:
        print("read", flush=True)
        arrived(*args)

    async def fetched(*args: Any) -> Any:
        print("fetched", flush=True)
        return await fetch(*args)

    reader.arrived, reader._fetch = arrived_here, fetched


def make_app(args: argparse.Namespace) -> faust.App:
    """The app of `args`, with its table and agent."""
    settings = {
        **SETTINGS,
        "broker_session_timeout": args.session_s,
        "broker_heartbeat_interval": args.session_s / 6,
        "datadir": args.datadir,
        "table_standby_replicas": args.standbys,
    }
    app = faust.App(args.group, broker=f"kafka://{args.broker}", **settings)
    use_batches(app, FetchSettings(max_wait_ms=args.fetch_wait_ms))
    table = BatchTable(app, name="users", partitions=args.partitions, store=args.store)
    events = batch_topic(app, args.input, partitions=args.partitions)
    step = make_step(args.output, bytes(args.filler_bytes))

    async def prepare(tp: Any, next_offset: int) -> None:
        print(f"prepared {tp.partition} {next_offset}", flush=True)
        while args.prepare_until is not None and not args.prepare_until.exists():
            await asyncio.sleep(0.02)

    def checked_step(batch: RecordBatch, load: Load) -> Applied:
        if args.fail_at is not None and batch.last >= args.fail_at:
            raise RuntimeError("asked to fail")
        return step(batch, load)  # type: ignore[no-any-return]

    if args.stop_at is not None:
        stop_before_the_changelog(app.conf.id, args.stop_at)

    async def run(stream: Any) -> None:
        if args.count_fetches:
            count_fetches(app)
        await run_batches(app, stream, table, one_by_one(checked_step), prepare=prepare)

    app.agent(events, name="worker")(run)
    return app


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--broker", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--input", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--store", default="memory://")
    parser.add_argument("--datadir", default=".")
    parser.add_argument("--standbys", type=int, default=0)
    parser.add_argument("--session-s", type=float, default=6.0)
    parser.add_argument("--fetch-wait-ms", type=int, default=20)
    parser.add_argument("--prepare-until", type=Path, help="prepare waits until this file exists")
    parser.add_argument("--filler-bytes", type=int, default=0)
    parser.add_argument("--fail-at", type=int, default=None)
    parser.add_argument("--stop-at", type=int, default=None, help="stop, with SIGSTOP, before logging such a state")
    parser.add_argument("--count-fetches", action="store_true", help="a line for each, and who made it")
    return parser.parse_args(argv)


async def main(argv: Sequence[str]) -> None:
    args = parse(argv)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    began_s = time.monotonic()

    def ready() -> None:
        print(f"ready after {time.monotonic() - began_s:.1f} s", flush=True)

    await serve(make_app(args), ready=ready, stop=stop)
    print("stopped", flush=True)


if __name__ == "__main__":
    import logging

    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    asyncio.run(main(sys.argv[1:]))
