"""The same job in Bytewax: `python -m tests.bench.peer_bytewax '{...}'`, in one of its formulations.

`user`: `stateful_batch` with the user as key, as its documentation shows it. Each user has a logic that holds the
state, and is handed all of that user's events that have come together. The model scores those: a few at most.

`partition`: `stateful_batch` with the input partition as key. Its logic holds the states of all users of the partition
in a dict, so the model scores whole batches. Bytewax snapshots a key's state whole, here all users of a partition, in
every epoch in which it changed: the time that takes grows with the number of users, not with that of events.

`crowd`: as `partition`, where 100,000 more users are known from before, so that this time shows.

Bytewax has no changelog in Kafka: states and offsets go to its recovery store, SQLite files on the local disk, at the
end of each epoch, together and consistently. An epoch lasts a second here, as often as the worker commits; the default
of 10 s would leave the snapshots outside of what is measured. The sink is flushed, all acknowledged, with every batch
that reaches it. Batches of up to 1,000 records from Kafka, acks=all; the producer does not linger, because each batch
is flushed anyway.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.operators import StatefulBatchLogic
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import run_main

from tests.bench.path_options import Options
from tests.bench.peer_job import Job, Record, librdkafka

__all__ = ["main"]

_EPOCH: Final = timedelta(seconds=1)
_N_CROWD: Final = 100_000


class Users(StatefulBatchLogic[KafkaSourceMessage[bytes, bytes], KafkaSinkMessage[bytes, bytes], Any]):
    """The states of one key, be it a user or a partition, by user."""

    def __init__(self, job: Job, options: Options, states: dict[bytes, bytes]) -> None:
        self._job = job
        self._options = options
        self._states = states

    def on_batch(
        self, values: list[KafkaSourceMessage[bytes, bytes]]
    ) -> tuple[Iterable[KafkaSinkMessage[bytes, bytes]], bool]:
        """Answer events of one partition, in their order."""
        states, names = self._states, self._options.names

        def load(keys: Sequence[bytes]) -> list[bytes | None]:
            return [states.get(key) for key in keys]

        sent: list[KafkaSinkMessage[bytes, bytes]] = []
        for first in range(0, len(values), self._options.max_events):
            chunk = values[first : first + self._options.max_events]
            records = [
                Record(each.offset or 0, 0 if each.timestamp is None else each.timestamp[1], each.key, each.value)
                for each in chunk
            ]
            output = self._job.answer(chunk[0].partition or 0, records, load)
            for user, state in output.writes.items():
                if state is None:
                    states.pop(user, None)
                else:
                    states[user] = state
            sent += [KafkaSinkMessage(key, value, names.recommendations) for key, value in output.recommendations]
            sent += [KafkaSinkMessage(key, value, names.dead_letters) for key, value in output.dead_letters]
        return sent, len(states) == 0

    def snapshot(self) -> dict[bytes, bytes]:
        """What recovery keeps; a copy, as is asked for, since it is written later."""
        return dict(self._states)


def make_flow(options: Options, job: Job) -> Dataflow:
    """Source, one stateful step, sink."""
    brokers = [librdkafka(options)]
    flow = Dataflow("recommend")
    events = op.input("events", flow, KafkaSource(brokers, [options.names.events], batch_size=1000))
    if options.formulation == "user":
        keyed = op.key_on("key", events, lambda message: message.key.decode())
    else:
        keyed = op.key_on("key", events, lambda message: str(message.partition))
    known = job.states_of(_N_CROWD // options.n_partitions) if options.formulation == "crowd" else {}

    def users(states: dict[bytes, bytes] | None) -> Users:
        return Users(job, options, dict(known) if states is None else states)

    answers = op.stateful_batch("users", keyed, users)
    sink = KafkaSink(brokers, None, add_config={"acks": "all", "linger.ms": "0", "batch.size": str(1 << 20)})
    op.output("recommendations", op.map("value", answers, lambda pair: pair[1]), sink)
    return flow


def main() -> None:
    """Serve until SIGTERM."""
    options = Options.read()
    options.pin()
    job = Job(options)
    store: Path = options.states
    store.mkdir(parents=True)
    init_db_dir(store, 1)

    def stop(*_: object) -> None:
        # The dataflow has no other end than that of its input. Everything is acknowledged and snapshotted by now, which
        # the benchmark has looked up in the recovery store.
        job.finish()
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    job.ready()
    run_main(make_flow(options, job), epoch_interval=_EPOCH, recovery_config=RecoveryConfig(store))


if __name__ == "__main__":
    main()
