"""The same job in Quix Streams: `python -m tests.bench.peer_quix '{...}'`.

A `StreamingDataFrame` with a stateful `apply`, as its documentation shows it: a user's state is one value of bytes in
Quix's own store (RocksDB, a changelog topic in Kafka), recommendations leave through `to_topic`, and a checkpoint
flushes the producer, then the changelog, then commits offsets. It handles one message at a time; it has no operator
that hands several users' messages over together, so the model scores a batch of one.

Tuned: a checkpoint each second, as often as the worker commits (its default, 5 s, would leave most of that work outside
of what is measured); the producer lingers for 20 ms and sends batches of up to 1 MiB; bytes are not serialised again;
state is kept as bytes instead of JSON. RocksDB's options stay at their defaults, whose memory holds all states here.
Delivery: at least once, acks=all, an idempotent producer, which are its defaults.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Any

from quixstreams import Application, State, message_context

from stream.worker.processor import Output
from tests.bench.path_options import Options
from tests.bench.peer_job import Job, Record, librdkafka

__all__ = ["main"]

_STATE = "state"


def make_app(options: Options, job: Job) -> Application:
    """The application: one stateful step, two topics out."""
    names = options.names
    app = Application(
        librdkafka(options),
        consumer_group=names.app_id,
        auto_offset_reset="earliest",
        processing_guarantee="at-least-once",
        commit_interval=1.0,
        state_dir=options.states,
        producer_extra_config={"acks": "all", "linger.ms": 20, "batch.size": 1 << 20},
        consumer_extra_config={"fetch.min.bytes": 1},
        loglevel="WARNING",
    )
    raw = {"key_deserializer": "bytes", "value_deserializer": "bytes", "value_serializer": "bytes"}
    events = app.topic(names.events, **raw)
    recommendations = app.topic(names.recommendations, **raw)
    dead_letters = app.topic(names.dead_letters, **raw)

    def recommend(value: bytes, key: bytes, timestamp: int, _headers: Any, state: State) -> Output:
        where = message_context()

        def load(keys: Sequence[bytes]) -> list[bytes | None]:
            return [state.get_bytes(_STATE) for _ in keys]

        output = job.answer(where.partition, [Record(where.offset, timestamp, key, value)], load)
        for stored in output.writes.values():
            if stored is None:
                state.delete(_STATE)
            else:
                state.set_bytes(_STATE, stored)
        return output

    answered = app.dataframe(events).apply(recommend, stateful=True, metadata=True)
    answered.filter(lambda output: len(output.dead_letters) > 0).apply(_letters, expand=True).to_topic(dead_letters)
    answered.apply(_values, expand=True).to_topic(recommendations)
    return app


def _values(output: Output) -> list[bytes | None]:
    return [value for _, value in output.recommendations]


def _letters(output: Output) -> list[bytes | None]:
    return [value for _, value in output.dead_letters]


def main() -> None:
    """Serve until SIGTERM."""
    options = Options.read()
    options.pin()
    job = Job(options)
    app = make_app(options, job)
    signal.signal(signal.SIGTERM, lambda *_: app.stop())
    job.ready()
    app.run()
    job.finish()


if __name__ == "__main__":
    main()
