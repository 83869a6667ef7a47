"""The job of the benchmark without a frame: what each peer does with an event, and the books it keeps meanwhile.

It is the product's own code throughout: decoding and validation, fold, features, bundle, ONNX Runtime, rules, messages.
So peers differ by their frames alone: how records arrive, where states lie, how answers and offsets are acknowledged.
The item statistics are those that the topic held at the start, and stay so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stream.bundle.load import Bundle, load_bundle
from stream.bundle.service import Arm
from stream.core.seam import Policy
from stream.core.state import blank_states
from stream.core.statistics import ItemStatistics
from stream.errors import PolytempoError
from stream.worker.follower import Follower
from stream.worker.processor import Output, Processor
from tests.bench.path_options import Options, say

__all__ = ["Job", "Record", "librdkafka", "processor_of"]


@dataclass(frozen=True, slots=True)
class Record:
    """A peer's message as the processor reads records; `timestamp` in milliseconds, None for one that was made up."""

    offset: int
    timestamp: int | None
    key: bytes | None
    value: bytes | None


def processor_of(bundle: Bundle, view: ItemStatistics) -> Processor:
    """The product's processor with a bundle's own policy."""
    policy = bundle.manifest.policy
    return Processor([Arm("default", bundle, Policy(policy.n, policy.seen))], view)


class Job:
    """Answers records, and knows how much processor time that took."""

    def __init__(self, options: Options) -> None:
        bundle = load_bundle(Path(options.bundle))
        self._follower = Follower(options.settings, options.names, bundle.features.statistics)
        asyncio.run(self._read_statistics())
        self._processor = processor_of(bundle, self._follower.view)
        self._processor.warm_up()
        self._topic = options.names.events
        self._core_ns = 0
        self._n_calls = 0
        self._began_ns = 0

    async def _read_statistics(self) -> None:
        try:
            await self._follower.start()
        finally:
            await self._follower.stop()

    def ready(self) -> None:
        """Say so; what the processor does counts from here."""
        self._core_ns, self._n_calls, self._began_ns = 0, 0, time.process_time_ns()
        say(ready=True)

    def answer(
        self, partition: int, records: Sequence[Record], load: Callable[[Sequence[bytes]], Sequence[bytes | None]]
    ) -> Output:
        """What consecutive records of one partition lead to; `load` gives the stored states of users."""
        began_ns = time.thread_time_ns()
        output = self._processor.process(
            records, load, topic=self._topic, partition=partition, covers=(records[0].offset, records[-1].offset)
        )
        self._core_ns += time.thread_time_ns() - began_ns
        self._n_calls += 1
        return output

    def states_of(self, n_users: int) -> dict[bytes, bytes]:
        """Records of so many users who do not come again, each an object of its own as in life."""
        blank = blank_states(self._processor.state_spec, 1)
        return {b"crowd-%d" % number: blank.tobytes() for number in range(n_users)}

    def finish(self) -> None:
        """Say what it has taken."""
        all_ns = time.process_time_ns() - self._began_ns
        stages_us = {"core": self._core_ns / 1000, "frame and clients": (all_ns - self._core_ns) / 1000}
        say(n_batches=self._n_calls, stages_us=stages_us)


def librdkafka(options: Options) -> str:
    """The servers for peers that stand on librdkafka.

    Raises:
        PolytempoError: the cluster wants more than an address; peers are measured on an open one.
    """
    settings = options.settings
    if settings.security != "PLAINTEXT":
        raise PolytempoError(
            f"peers are measured on an open cluster, and this one wants {settings.security}.",
            "Leave --kafka out: the benchmark then starts a broker of its own.",
        )
    return settings.servers
