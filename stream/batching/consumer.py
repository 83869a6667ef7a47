"""Faust's consumer, handing over fetches instead of records, on the worker's own event loop.

Two departures from the stock consumer:

- Each fetch of a batch topic becomes one message, with a batch of each partition that a `Ledger` found contiguous.
- The aiokafka consumer runs on the worker's event loop instead of in a thread. That saves two hand-overs and the
  fight for the interpreter lock per fetch, and makes it exact: between aiokafka draining records (and moving its
  position) and the ledger taking note of them, nothing else runs, so a seek can never be overwritten.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aiokafka.consumer.fetcher import FetchResult
from aiokafka.errors import IllegalStateError
from aiokafka.structs import ConsumerRecord
from faust.transport.consumer import ensure_TP, ensure_TPset
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage
from mode import Service
from mode.utils.futures import maybe_async, notify

from stream.batching import private as _private  # noqa: F401  (refuses other releases before anything is patched)
from stream.batching.batches import FetchedBatch
from stream.batching.ledger import Admission, Ledger
from stream.batching.pace import Pace
from stream.batching.reading import Reader, ask_for, keep_parsed
from stream.batching.table import BatchTable
from stream.errors import PolytempoError

if TYPE_CHECKING:
    from stream.batching.transport import BatchTransport

__all__ = ["BatchConsumer", "BatchMessage", "LoopConsumer", "Standing"]

#: Keeps the set of wanted partitions from ever being empty: aiokafka reads an empty set as "all".
_NOBODY: Final = TP("", -1)
_IDLE_FETCH_S: Final = 1.0


class BatchMessage(ConsumerMessage):  # type: ignore[misc]
    """What one fetch brought of one topic, as one Faust message: what Faust does with each costs more than a record.

    It passes for the last record of the first of its partitions.
    """

    batches: Sequence[FetchedBatch]


@dataclass(frozen=True, slots=True)
class Standing:
    """How far one batch partition is, as this consumer knows it without asking.

    Attributes:
        partition: its number.
        done: everything below is finished and committed; the end where nothing is left that could be committed.
            None before its first record.
        end: the offset behind the last record, as of the broker's last answer; None before the first.
        answered_ms: when the broker last answered a fetch of it, by this machine's clock; None before the first.
        waiting: whether it has read all there was to read, so that a fetch of it must be under way.
    """

    partition: int
    done: int | None
    end: int | None
    answered_ms: int | None
    waiting: bool

    @property
    def lag(self) -> int:
        """Events known to be there and not finished."""
        return 0 if self.done is None or self.end is None else max(self.end - self.done, 0)


class LoopConsumer(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """Faust's "consumer thread" without the thread: the same calls, made directly on the worker's loop."""

    wait_for_shutdown = False
    _reader: Reader | None = None

    async def start(self) -> None:
        """Connect and join nothing yet; errors propagate to the caller."""
        self._thread_started.set()
        await self._default_start()

    async def stop(self) -> None:
        """Leave the group and close the connections."""
        if self._started.is_set():
            await Service.stop(self)

    async def on_stop(self) -> None:
        await self.on_thread_stop()

    def _stopped_set(self) -> None:
        self._stopped.set()

    def set_shutdown(self) -> None:
        self._shutdown.set()

    async def _stop_children(self) -> None:
        await self._default_stop_children()

    async def _stop_futures(self) -> None:
        await self._default_stop_futures()

    async def _stop_exit_stacks(self) -> None:
        await self._default_stop_exit_stacks()

    async def call_thread(self, fun: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        """Call `fun` here and now."""
        return await maybe_async(fun(*args, **kwargs))

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)  # credentials, timeouts, assignor: as Faust does
        fetch = transport.fetch
        consumer._fetch_max_wait_ms = fetch.max_wait_ms
        consumer._fetch_min_bytes = fetch.min_bytes
        consumer._fetch_max_bytes = fetch.max_bytes
        return consumer

    async def _fetch_records(
        self, consumer: Any, active_partitions: set[TP], timeout: float | None = None, max_records: int | None = None
    ) -> Any:
        """What was fetched; of partitions that are recovered in bulk, records come as aiokafka's parser made them."""
        fetcher = consumer._fetcher
        if self.consumer.flow_active and not (consumer._closed or fetcher._closed):
            reader = self._reader_of(consumer)
            with fetcher._subscriptions.fetch_context():
                if await reader.arrival(active_partitions, timeout or 0.0):
                    return reader.take(active_partitions)
            timeout = 0
            for tp in self.consumer.recovered_in_bulk():
                if isinstance(fetched := fetcher._records.get(tp), FetchResult):
                    keep_parsed(fetched)
        return await super()._fetch_records(consumer, active_partitions, timeout=timeout, max_records=max_records)

    def set_fetch(self, max_wait_ms: int, min_bytes: int, pace_s: float) -> None:
        """What fetch requests from now on ask for, and how soon one follows another."""
        consumer = self._ensure_consumer()
        ask_for(consumer, max_wait_ms=max_wait_ms, min_bytes=min_bytes)
        self._reader_of(consumer).pace_s = pace_s

    def _reader_of(self, consumer: Any) -> Reader:
        if self._reader is None or self._reader.fetcher is not consumer._fetcher:
            self._reader = Reader(consumer, self.consumer.wanted_now, self.consumer.recovered_in_bulk)
        return self._reader

    @property
    def member_generation(self) -> int:
        """The generation as the group coordinator client knows it: -1 once the group has thrown this member out."""
        return int(self._ensure_consumer()._coordinator.generation)

    def set_paused(self, tps: Iterable[TP], paused: bool) -> None:
        """Stop or resume fetching `tps` at the broker; those not assigned are left out."""
        consumer = self._ensure_consumer()
        assigned = consumer.assignment()
        for tp in driver.ensure_aiokafka_TPset(tps) & assigned:
            (consumer.pause if paused else consumer.resume)(tp)

    def state(self, tp: TP) -> Any | None:
        """aiokafka's own state of one assigned partition; None if it is not assigned."""
        subscription = None if self._consumer is None else self._consumer._subscription.subscription
        assignment = None if subscription is None else subscription.assignment
        (key,) = driver.ensure_aiokafka_TPset({tp})
        return None if assignment is None or key not in assignment.tps else assignment.state_value(key)

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust's look for what stands still, which fails where a position is being found out: after a rebalance, or
        where retention has passed it."""
        state = self.state(tp)
        if state is not None and state.has_valid_position:
            super().verify_event_path(now, tp)

    def wake(self) -> None:
        """Make a waiting fetch look again at which partitions are wanted."""
        if self._consumer is not None:
            fetcher = self._consumer._fetcher
            for waiter in list(fetcher._fetch_waiters):
                fetcher._notify(waiter)


def _consumer_record(tp: TP, record: Any) -> ConsumerRecord:
    """A record as aiokafka gives it out, whichever it is."""
    if isinstance(record, ConsumerRecord):
        return record
    stamp = record.timestamp, record.timestamp_type
    return ConsumerRecord(*tp, record.offset, *stamp, record.key, record.value, None, -1, -1, tuple(record.headers))


def _message(batches: Sequence[FetchedBatch]) -> BatchMessage:
    first = batches[0]
    record = first.records[-1]
    stamp = (record.timestamp or 0) / 1000.0, record.timestamp_type
    nothing = None, None, b"", None, 0, 0  # headers, key, value, checksum, sizes of key and value
    message = BatchMessage(*first.tp, first.last, *stamp, *nothing, first.tp, generation_id=first.generation)
    message.batches = batches
    return message


class BatchConsumer(driver.Consumer):  # type: ignore[misc]
    """See the module. `ledger` and `rewind` are what the pipeline uses."""

    _thread: LoopConsumer
    _n_acked: int
    transport: BatchTransport

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._ledgers: dict[TP, Ledger] = {}
        self._wanted: set[TP] = {_NOBODY}
        self._pace = Pace()
        self._asked_for: tuple[int, float] | None = None
        super().__init__(*args, **kwargs)

    def _new_consumer_thread(self) -> LoopConsumer:
        return LoopConsumer(self, loop=self.loop, thread_loop=self.loop, beacon=self.beacon)

    async def threadsafe_partitions_revoked(self, _receiver_loop: Any, revoked: set[TP]) -> None:
        await self.on_partitions_revoked(revoked)

    async def threadsafe_partitions_assigned(
        self, _receiver_loop: Any, assigned: set[TP], generation_id: int = 0
    ) -> None:
        await self.on_partitions_assigned(assigned, generation_id)

    # -- for the pipeline ----------------------------------------------------------------------------------------

    def ledger(self, tp: TP) -> Ledger | None:
        """The books of `tp` in this generation, None while it is not ours to read."""
        return self._ledgers.get(tp)

    def is_current(self, ledger: Ledger) -> bool:
        """Whether what `ledger` says may still be written: same generation, and still a member of the group."""
        return bool(ledger.generation == self.app.consumer_generation_id == self._thread.member_generation)

    def on_taken(self, tp: TP) -> None:
        """A batch arrived: Faust complains of partitions of which it sees nothing arrive, and sees the first alone."""
        self.app.monitor.stream_inbound_time[tp] = time.monotonic()

    def rewind(self, tp: TP, ledger: Ledger) -> None:
        """Read again from the first offset that was handed out and has not arrived."""
        offset = ledger.rewind()
        if offset is not None:
            self._seek_now(tp, offset)
        self._refresh()

    def standings(self) -> list[Standing]:
        """How far each batch partition of this generation is; nothing is asked of the broker."""
        found = []
        for tp, ledger in sorted(self._ledgers.items()):
            state = None if ledger.closed else self._thread.state(tp)
            if state is None:
                continue
            done, end = self._committed_offset.get(tp), state.highwater
            if done is None:
                done = ledger.began_at
            read = end is not None and state.has_valid_position and state.position >= end
            if read and ledger.idle:
                done = end  # what is left up to the end is no record: a transaction's marker, or what compaction took
            waiting = read and ledger.active and ledger.n_buffered == 0
            found.append(Standing(tp.partition, done, end, state.timestamp, waiting))
        return found

    def committed(self, tp: TP) -> int:
        """Below this offset nothing is read again; 0 where nothing is known to be committed."""
        return self._committed_offset.get(tp) or 0

    def on_applied(self, ledger: Ledger) -> None:
        """One waiting batch of `ledger` is fully applied: there may be room again."""
        ledger.n_waiting -= 1
        self._refresh()

    # -- which partitions to fetch -------------------------------------------------------------------------------

    def _is_batch(self, tp: TP) -> bool:
        return bool(tp.topic in self.transport.buffer_of)

    def _has_room(self, tp: TP) -> bool:
        ledger = self._ledgers.get(tp)
        if ledger is None or not ledger.active:
            return False
        return bool(ledger.n_buffered < self.transport.buffer_of[tp.topic])

    def wanted_now(self) -> Collection[TP]:
        """What may be read without aiokafka's routine: nothing while tables are recovered."""
        return () if not self.flow_active or self.app.tables.recovery.in_recovery else self._wanted

    def _refresh(self) -> None:
        """Bring the (shared, live) set of wanted partitions up to date and wake the fetch if some are new."""
        wanted = {_NOBODY}
        if self.flow_active:
            for tp in self._get_active_partitions():
                if not self._is_batch(tp) or self._has_room(tp):
                    wanted.add(tp)
        more = not wanted <= self._wanted
        self._wanted.clear()
        self._wanted.update(wanted)
        if more:
            if self._asked_for is not None and self._asked_for[0] == self.transport.fetch.idle_wait_ms:
                self._ask_for(self.transport.fetch.max_wait_ms)
            self._thread.wake()

    def pause_partitions(self, tps: Iterable[TP]) -> None:
        tpset = ensure_TPset(tps)
        super().pause_partitions(tpset)
        # Faust only looks away; aiokafka would go on fetching our own changelog records, and hold back every other
        # fetch from the same broker for 100 ms when nobody collects them.
        self._thread.set_paused((tp for tp in tpset if self._is_changelog_tp(tp)), True)
        self._refresh()

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        tpset = ensure_TPset(tps)
        super().resume_partitions(tpset)
        self._thread.set_paused((tp for tp in tpset if self._is_changelog_tp(tp)), False)
        self._refresh()

    def on_buffer_full(self, tp: TP) -> None:
        # Batch topics are bounded by their ledger, so that a full one never blocks the others.
        if not self._is_batch(tp):
            super().on_buffer_full(tp)
            self._refresh()

    def on_buffer_drop(self, tp: TP) -> None:
        if not self._is_batch(tp):
            super().on_buffer_drop(tp)
            self._refresh()

    # -- fetch -> conductor --------------------------------------------------------------------------------------

    async def _drain_messages(self, fetcher: Any) -> None:
        try:
            while not (self.should_stop or fetcher.should_stop):
                if not self.flow_active:
                    await self.wait(self.can_resume_flow)
                    continue
                self._refresh()
                records = await self._thread.getmany(self._wanted, _IDLE_FETCH_S)
                self._set_pace(sum(map(len, records.values())))
                if not records:
                    await asyncio.sleep(0)
                    continue
                await self._hand_out_all(records)
        except (*self.consumer_stopped_errors, asyncio.CancelledError):
            if not self.app.should_stop:
                raise
        except Exception as exc:
            await self.app.crash(exc)
            raise

    async def _hand_out_all(self, fetched: Mapping[Any, Sequence[ConsumerRecord]]) -> None:
        generation = self.app.consumer_generation_id
        batches: dict[str, list[FetchedBatch]] = {}
        singly: list[tuple[TP, Sequence[ConsumerRecord]]] = []
        for aiokafka_tp, records in fetched.items():
            tp = ensure_TP(aiokafka_tp)
            end = self.highwater(tp)
            self.app.monitor.track_tp_end_offset(tp, end)
            if not self._is_batch(tp):
                singly.append((tp, records))
                continue
            self._refuse_what_was_made_anew(tp, end)
            if (batch := self._admit(tp, records)) is not None:
                batches.setdefault(tp.topic, []).append(batch)
        for of_topic in batches.values():
            await self.callback(_message(of_topic))
        for tp, records in singly:
            if not self.flow_active or self.app.consumer_generation_id != generation:
                break  # a rebalance: everything not handed out is read again from its committed offset
            await self._hand_out_singly(tp, self._recover_in_bulk(tp, records))

    def _refuse_what_was_made_anew(self, tp: TP, end: int | None) -> None:
        """A deleted topic of the same name begins at 0: its events would pass for ones that were handed out before."""
        ledger = self._ledgers.get(tp)
        if ledger is not None and ledger.next_read is not None and end is not None and end < ledger.next_read:
            raise PolytempoError(
                f"{tp.topic} was made anew or lost records: its partition {tp.partition} ends at {end} "
                f"and was read up to {ledger.next_read}.",
                "What is kept of its events belongs to the old one; start again, and do as is said then.",
            )

    def _set_pace(self, n_records: int) -> None:
        fetch = self.transport.fetch
        if self._pace.busy(n_records, time.monotonic(), fetch.pace_ms / 1000):
            self._ask_for(fetch.max_wait_ms, fetch.pace_ms / 1000)
        else:
            self._ask_for(fetch.max_wait_ms if n_records > 0 else fetch.idle_wait_ms)

    def _ask_for(self, max_wait_ms: int, pace_s: float = 0.0) -> None:
        if self._asked_for != (max_wait_ms, pace_s):
            self._asked_for = max_wait_ms, pace_s
            self._thread.set_fetch(max_wait_ms, self.transport.fetch.min_bytes, pace_s)

    def _admit(self, tp: TP, records: Sequence[ConsumerRecord]) -> FetchedBatch | None:
        """What of these records is to be handed out."""
        ledger = self._ledgers.get(tp)
        if ledger is None or not ledger.active:
            return None
        admission, offset = ledger.admit(records[0].offset, records[-1].offset)
        if admission is Admission.DROP:
            return None
        if admission is Admission.REREAD:
            self.log.info("%s: offset %s expected, %s read: reading again", tp, offset, records[0].offset)
            self._seek_now(tp, offset)
            return None
        if records[0].offset < offset:
            records = [record for record in records if record.offset >= offset]
        last = self._read_offset[tp] = records[-1].offset
        return FetchedBatch(tp, offset, last, records, ledger.generation, ledger.epoch, time.perf_counter_ns())

    async def _hand_out_singly(self, tp: TP, records: Sequence[ConsumerRecord]) -> None:
        """As the stock consumer does, gaps of compacted topics included."""
        for record in records:
            read = self._read_offset[tp]
            if read is not None and record.offset < read:
                continue
            if read and record.offset - read > 1 and self.app.topics.acks_enabled_for(tp.topic):
                await self._add_gap(tp, read + 1, record.offset)
            if self._commit_every is not None and self._n_acked >= self._commit_every:
                self._n_acked = 0
                await self.commit()
            await self.wait_first(self.callback(self._to_message(tp, record)), self.suspend_flow.wait())
            self._read_offset[tp] = record.offset

    def _recover_in_bulk(self, tp: TP, records: Sequence[ConsumerRecord]) -> Sequence[ConsumerRecord]:
        """Apply changelog records of a BatchTable at once, be they `ConsumerRecord`s or as aiokafka parsed them.

        The last one is still handed on: Faust's recovery finds it applied, and sees whether it has finished.
        """
        recovery = self.app.tables.recovery
        table = recovery.tp_to_table.get(tp)
        if not isinstance(table, BatchTable):
            return records
        if tp in recovery.active_tps:
            offsets = recovery.active_offsets
        elif tp in recovery.standby_tps:
            offsets = recovery.standby_offsets
        else:
            return ()
        applied = offsets.get(tp)
        fresh = records if applied is None else [record for record in records if record.offset > applied]
        if fresh:
            table.apply_records(tp.partition, fresh, logged=offsets is recovery.standby_offsets)
            offsets[tp] = fresh[-1].offset
        self._read_offset[tp] = None
        return [_consumer_record(tp, records[-1])]

    def recovered_in_bulk(self) -> set[TP]:
        """The changelog partitions whose records `_recover_in_bulk` takes now."""
        recovery = self.app.tables.recovery
        tables = recovery.tp_to_table
        return {tp for tp in recovery.active_tps | recovery.standby_tps if isinstance(tables.get(tp), BatchTable)}

    # -- acknowledgement -> commit -------------------------------------------------------------------------------
    # Faust's own acknowledgements say nothing here: a message that a stream skips during a rebalance is
    # acknowledged too, and the lists of acknowledged offsets are dropped before the last commit of a revocation.

    def ack(self, message: Any) -> bool:
        if not isinstance(message, BatchMessage):
            return bool(super().ack(message))
        message.acked = True
        message.batches = ()
        self._unacked_messages.discard(message)
        notify(self._waiting_for_ack)
        return True

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Any:
        yield from super()._filter_tps_with_pending_acks(topics)
        for tp, ledger in self._ledgers.items():
            if ledger.has_finished and (topics is None or tp in topics or tp.topic in topics):
                yield tp

    def _new_offset(self, tp: TP) -> int | None:
        if not self._is_batch(tp):
            offset: int | None = super()._new_offset(tp)
            return offset
        ledger = self._ledgers.get(tp)
        return None if ledger is None or not self.is_current(ledger) else ledger.committable()

    async def commit_and_end_transactions(self) -> None:
        # A commit that is under way was computed before the last batches finished; it must not stand for this one.
        await self.maybe_wait_for_commit_to_finish()
        await super().commit_and_end_transactions()

    # -- generations ---------------------------------------------------------------------------------------------

    def stop_flow(self) -> None:
        super().stop_flow()
        for ledger in self._ledgers.values():
            ledger.close()
        self._refresh()

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        await super().on_partitions_revoked(revoked)  # waits for what is in flight, and commits it
        for tp in revoked:
            if (ledger := self._ledgers.pop(tp, None)) is not None:
                ledger.close()

    async def perform_seek(self) -> None:
        """Seek to the committed offsets and open new books; reading starts with `resume_flow`."""
        generation = self.app.consumer_generation_id
        await super().perform_seek()
        for tp in self.assignment():
            if self._is_batch(tp):
                if (old := self._ledgers.get(tp)) is not None:
                    old.close()
                self._ledgers[tp] = Ledger(generation, self._committed_offset.get(tp))

    def resume_flow(self) -> None:
        super().resume_flow()
        for tp, ledger in self._ledgers.items():
            if ledger.generation == self.app.consumer_generation_id and not ledger.closed:
                if ledger.n_handed:  # Faust has just cleared the queues
                    self.rewind(tp, ledger)
                ledger.open = True
        self._refresh()

    def _seek_now(self, tp: TP, offset: int) -> None:
        with contextlib.suppress(IllegalStateError):  # no longer assigned: the next owner starts at the commit
            self._thread.seek(tp, offset)
            self._read_offset[tp] = offset if offset > 0 else None
