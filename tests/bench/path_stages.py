"""Where a worker's processor time goes, stage by stage, while it runs as it always does.

Each stage is measured with the thread's own CPU clock, so what else the machine does stays out of it. Time is
exclusive: of a stage within a stage, only the inner one counts it. Functions are timed per call, which is once a batch;
the tasks of the event loop (reading, producing, committing) are timed at each of their steps, by a task factory. What
neither covers is the loop itself and its sockets. The clock is read some 40 times a batch: under 0.2 us an event.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import stream.batching.settling as settling
import stream.core.seam as seam
import stream.worker.app as worker
import stream.worker.processor as processing
from stream.batching.frames import Frames
from stream.batching.sending import Sender
from stream.core.arms import Arms
from stream.worker.answering import Answering
from stream.worker.follower import Follower
from stream.worker.processor import Processor

__all__ = ["Stages"]

_TASKS = (
    # (part of the name of a task's coroutine, stage); the first that fits
    ("commit", "commit"),
    ("follow", "item statistics"),
    ("Follower", "item statistics"),
    ("Sender", "produce"),
    ("Settler", "produce"),
    ("_answer", "produce"),
    ("_Run", "batches"),
    ("Fetcher", "consume"),
    ("_drain_messages", "consume"),
    ("AIOKafkaConnection", "network"),
    ("Agent", "faust"),
    ("agent", "faust"),
)


class Stages:
    """A stopwatch for each stage; `watch` wires it into this process."""

    def __init__(self) -> None:
        self.ns: dict[str, int] = defaultdict(int)
        self.n_batches = 0
        self._stack: list[int] = []
        """For each open stage, what its inner stages have taken."""
        self._began_ns = 0
        self._since_ns = 0
        """What is open at the start counts from then."""

    def count_batches(self) -> None:
        """Count the worker's steps."""
        process_all = Processor.process_all

        def counting(processor: Processor, *args: Any) -> Any:
            self.n_batches += 1
            return process_all(processor, *args)

        setattr(Processor, "process_all", counting)  # noqa: B010 (as below)

    def watch(self) -> None:
        """Time the worker's functions and, on the running loop, all tasks that start from now on."""
        processor, core, app = vars(processing), vars(seam), vars(worker)
        for module, name, stage in (
            (processor, "decode_states", "load"),
            (app, "encode_activity", "encode"),
            (core, "fold", "fold"),
            (core, "featurize", "featurize"),
            (core, "sources_of", "rank"),
            (core, "rank", "rank"),
        ):
            module[name] = self.timed(module[name], stage)
        vars(settling)["put"] = self.timed(settling.put, "produce")
        for owner, name, stage in (
            (Answering, "encode", "encode"),
            (Processor, "process_all", "process, rest"),
            (Arms, "step", "step, rest"),
            (Follower, "_apply", "item statistics"),
            (Sender, "flush", "produce"),
            (Frames, "data_received", "network"),
        ):
            setattr(owner, name, self.timed(getattr(owner, name), stage))
        make = Processor.__init__

        def made(processor: Processor, *args: Any, **kwargs: Any) -> None:
            make(processor, *args, **kwargs)
            processor._decoder.decode_all = self.timed(processor._decoder.decode_all, "decode")  # type: ignore[method-assign]
            for scorer in {
                id(each.recommender.scorer): each.recommender.scorer for each in processor._answering
            }.values():
                scorer.score = self.timed(scorer.score, "score")  # type: ignore[method-assign]

        setattr(Processor, "__init__", made)  # noqa: B010 (assigning to a class's __init__ is no typing matter here)

    def watch_tasks(self, loop: asyncio.AbstractEventLoop) -> None:
        """Time every task that `loop` starts from now on."""

        def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **kwargs: Any) -> asyncio.Task[Any]:
            name = getattr(coroutine, "__qualname__", "")
            stage = next((stage for part, stage in _TASKS if part in name), "faust")
            return asyncio.Task(_Timed(self, coroutine, stage), loop=loop, **kwargs)

        loop.set_task_factory(factory)

    def start(self) -> None:
        """Forget what was measured so far: from here on it counts."""
        self.ns.clear()
        self.n_batches = 0
        self._stack[:] = [0] * len(self._stack)
        self._began_ns, self._since_ns = time.process_time_ns(), time.thread_time_ns()

    def us(self) -> dict[str, float]:
        """CPU time per stage since `start`, in microseconds; what no stage covers is "event loop"."""
        all_ns = time.process_time_ns() - self._began_ns
        stages = {stage: ns / 1000 for stage, ns in self.ns.items()}
        stages["event loop"] = (all_ns - sum(self.ns.values())) / 1000
        return stages

    def timed(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        """`function`, timed."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self._stack.append(0)
            began_ns = time.thread_time_ns()
            try:
                return function(*args, **kwargs)
            finally:
                self._leave(stage, began_ns)

        return call

    def _leave(self, stage: str, began_ns: int) -> None:
        took_ns = time.thread_time_ns() - max(began_ns, self._since_ns)
        self.ns[stage] += took_ns - self._stack.pop()
        if self._stack:
            self._stack[-1] += took_ns


class _Timed(Coroutine[Any, Any, Any]):
    """A coroutine whose steps are timed; what it waits for is not."""

    def __init__(self, stages: Stages, coroutine: Coroutine[Any, Any, Any], stage: str) -> None:
        self._stages = stages
        self._coroutine = coroutine
        self._stage = stage
        self.__qualname__ = getattr(coroutine, "__qualname__", stage)
        self.__name__ = getattr(coroutine, "__name__", stage)

    def send(self, value: Any) -> Any:
        return self._step(self._coroutine.send, value)

    def throw(self, *error: Any) -> Any:
        return self._step(self._coroutine.throw, *error)

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        try:
            waiting = self.send(None)
            while True:
                try:
                    value = yield waiting
                except BaseException as error:  # noqa: BLE001 (cancellation too goes into the coroutine)
                    waiting = self.throw(error)
                else:
                    waiting = self.send(value)
        except StopIteration as done:
            return done.value

    def _step(self, step: Callable[..., Any], *args: Any) -> Any:
        stages = self._stages
        stages._stack.append(0)
        began_ns = time.thread_time_ns()
        try:
            return step(*args)
        finally:
            stages._leave(self._stage, began_ns)
