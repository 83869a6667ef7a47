"""A Faust table of bytes whose changelog is written and read in bulk, and whose store is never ahead of it."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, Protocol

import faust
from faust.stores import memory
from faust.types import TP
from yarl import URL

from stream.batching.fencing import Fences, Writer

__all__ = ["BatchTable", "MemoryStore"]


class ChangelogRecord(Protocol):
    """What recovery reads of a changelog record; a None value is a deletion."""

    offset: int
    key: bytes
    value: bytes | None


class MemoryStore(memory.Store[bytes, bytes]):  # type: ignore[misc]
    """One dict per partition, which also remembers the changelog offset that it holds.

    Faust's memory store forgets that offset, so every rebalance reads whole changelogs again, and it deletes what
    standbys have read. This one keeps partitions that stay assigned, in either role, and drops the rest.
    """

    def __post_init__(self) -> None:
        self._key_partition: MutableMapping[bytes, int] = {}
        self.by_partition: dict[int, dict[bytes, bytes]] = {}
        self._applied: dict[int, int] = {}
        self._expose()

    def _expose(self) -> None:
        # What Faust's own table views read. Keys live in one partition each, so the order does not matter.
        self.data: MutableMapping[bytes, bytes] = ChainMap(*self.by_partition.values())

    def partition(self, partition: int) -> dict[bytes, bytes]:
        """The states of one partition."""
        try:
            return self.by_partition[partition]
        except KeyError:
            states = self.by_partition[partition] = {}
            self._expose()
            return states

    def drop(self, partition: int) -> None:
        """Forget one partition, its offset included."""
        self.by_partition.pop(partition, None)
        self._applied.pop(partition, None)
        self._expose()

    def persisted_offset(self, tp: TP) -> int | None:
        return self._applied.get(tp.partition)

    def set_persisted_offset(self, tp: TP, offset: int) -> None:
        self._applied[tp.partition] = offset

    async def on_rebalance(
        self, assigned: set[TP], _revoked: set[TP], newly_assigned: set[TP], _generation_id: int = 0
    ) -> None:
        """Keep the partitions that stay assigned, active or standby; the others may be written elsewhere."""
        changelog = self.table.changelog_topic.get_topic_name()
        kept = {tp.partition for tp in assigned - newly_assigned if tp.topic == changelog}
        for partition in set(self.by_partition) - kept:
            self.drop(partition)

    async def on_recovery_completed(self, active_tps: set[TP], standby_tps: set[TP]) -> None:
        """Nothing to clear away: `on_rebalance` has dropped what is not assigned."""

    def n_keys(self) -> int:
        """Keys held, over all partitions."""
        return sum(map(len, self.by_partition.values()))

    async def tidy(self) -> None:
        """Nothing to do: what is erased in memory is gone."""

    def walk(self, partition: int) -> Iterator[tuple[bytes, bytes]]:
        """The records that there are now, later as they are by then; what goes meanwhile is left out."""
        for key in list(self.by_partition.get(partition, ())):
            value = self.by_partition.get(partition, {}).get(key)
            if value is not None:
                yield key, value

    def get_many(self, partition: int, keys: Iterable[bytes]) -> list[bytes | None]:
        get = self.partition(partition).get
        return [get(key) for key in keys]

    def write_many(
        self,
        tp: TP,
        writes: Iterable[tuple[bytes, bytes | None]],
        offset: int | None,
        *,
        logged: bool = True,  # noqa: ARG002 (for stores on disk)
    ) -> None:
        """Write at once; memory outlives no crash, logged or not."""
        states = self.partition(tp.partition)
        for key, value in writes:
            if value is None:
                states.pop(key, None)
            else:
                states[key] = value
        if offset is not None:
            self._applied[tp.partition] = offset


class BatchTable(faust.Table):  # type: ignore[misc]
    """bytes -> bytes, written only by `run_batches`, with a changelog that any Faust table could read.

    A value whose changelog record is not delivered yet lives in an overlay, so that the store (a RocksDB on disk
    above all) is never ahead of the changelog. The changelog has as many partitions as the input topic, and state of
    partition p comes from input partition p only.

    `store="rocksdb://..."` keeps states on disk with the rocksdict package; anything else in memory.
    """

    def __init__(self, app: faust.App, *, name: str, partitions: int, **kwargs: Any) -> None:
        kwargs = {"key_type": bytes, "value_type": bytes, **kwargs}
        super().__init__(app, name=name, partitions=partitions, **kwargs)
        self._overlay: dict[int, dict[bytes, tuple[int, bytes | None]]] = {}
        self._n_staged = 0
        self._fences = Fences(app, self.changelog_topic_name)
        app.tables.add(self)  # what app.Table() does; without it Faust would never recover it

    def _new_store(self) -> Any:
        # Faust writes `self._store or ...`, and an URL of a scheme alone, as "rocksdb://" is, counts as false.
        return self._new_store_by_url(self.app.conf.store if self._store is None else self._store)

    def _new_store_by_url(self, url: str | URL) -> Any:
        if URL(url).scheme == "rocksdb":
            from stream.batching.rocks import RocksStore  # only with the rocksdict package

            cls: Any = RocksStore
        else:
            cls = MemoryStore
        return cls(
            url,
            self.app,
            self,
            table_name=self.name,
            key_type=self.key_type,
            key_serializer=self.key_serializer,
            value_serializer=self.value_serializer,
            value_type=self.value_type,
            loop=self.loop,
            options=self.options,
        )

    # -- live ----------------------------------------------------------------------------------------------------

    def load(self, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        """The current value of each key: the overlay's, else the store's, None if there is neither."""
        overlay = self._overlay.get(partition)
        if not overlay:
            return self.data.get_many(partition, keys)  # type: ignore[no-any-return]
        values: list[bytes | None] = [None] * len(keys)
        missing: list[int] = []
        for i, key in enumerate(keys):
            staged = overlay.get(key)
            if staged is None:
                missing.append(i)
            else:
                values[i] = staged[1]
        stored = self.data.get_many(partition, [keys[i] for i in missing])
        for i, value in zip(missing, stored, strict=True):
            values[i] = value
        return values

    def stage(self, partition: int, writes: Mapping[bytes, bytes | None]) -> int:
        """Put values in the overlay; the number that names this write to `settle`."""
        self._n_staged += 1
        number = self._n_staged
        if writes:
            overlay = self._overlay.setdefault(partition, {})
            for key, value in writes.items():
                overlay[key] = (number, value)
        return number

    def settle(self, partition: int, number: int, writes: Mapping[bytes, bytes | None], first: int, last: int) -> None:
        """The changelog has `writes` at offsets first..last: move them from the overlay to the store.

        They are what was staged under numbers up to `number`, the newest value of each key.

        The store's offset moves on only if the records follow what it already holds. After a gap (a repeated
        produce request, or another writer) it stays, and the next recovery reads from there.
        """
        tp = TP(self.changelog_topic_name, partition)
        held = self.data.persisted_offset(tp)
        follows = first == 0 if held is None else held >= first - 1
        self.data.write_many(tp, writes.items(), max(last, held or 0) if follows else None)
        overlay = self._overlay.get(partition)
        if overlay is not None:
            for key in writes:
                staged = overlay.get(key)
                if staged is not None and staged[0] <= number:
                    del overlay[key]

    async def writer(self, partition: int, generation: int) -> Writer:
        """What signs changelog records of this partition; FencedError if it is not ours in this generation."""
        return await self._fences.writer(partition, generation)

    def walk(self, partition: int) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) of a partition's store, while it changes: no key twice, and each that stays."""
        return self.data.walk(partition)  # type: ignore[no-any-return]

    def n_keys(self) -> int:
        """Keys in the store, over all partitions that are held; an estimate for one on disk."""
        return int(self.data.n_keys())

    def n_unsettled(self) -> int:
        """Keys in the overlay, over all partitions."""
        return sum(map(len, self._overlay.values()))

    async def tidy(self) -> None:
        """Take what was erased out of the store's files too; may take a while, beside everything else."""
        await self.data.tidy()

    # -- recovery ------------------------------------------------------------------------------------------------

    def apply_records(self, partition: int, records: Sequence[ChangelogRecord], *, logged: bool = True) -> None:
        """Apply changelog records, in offset order, of an active or standby partition.

        With `logged` off a store on disk may forget the newest of them in a crash, its offset going back with them.
        """
        tp = TP(self.changelog_topic_name, partition)
        pairs = [(record.key, record.value) for record in records]
        self.data.write_many(tp, pairs, records[-1].offset, logged=logged)

    async def on_rebalance(
        self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0
    ) -> None:
        """Become the only writer of what is ours now, before recovery looks where the changelog ends."""
        self._overlay.clear()
        await super().on_rebalance(assigned, revoked, newly_assigned, generation_id)
        changelog = self.changelog_topic_name
        actives = {tp.partition for tp in self.app.assignor.assigned_actives() if tp.topic == changelog}
        await self._fences.take_over(actives, generation_id)

    def __setitem__(self, key: Any, value: Any) -> None:
        raise TypeError("a BatchTable is written by run_batches only")

    def __delitem__(self, key: Any) -> None:
        raise TypeError("a BatchTable is written by run_batches only")
