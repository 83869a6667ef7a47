"""The RocksDB store of a BatchTable: one database per partition, states and changelog offset in one atomic write."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any, Final

import rocksdict
from faust.stores import rocksdb
from faust.types import TP

from stream.errors import PolytempoError

__all__ = ["RocksStore"]

_N_KEYS: Final = "rocksdb.estimate-num-keys"
_PART: Final = 256
"""Records that are read at once."""
_MANY: Final = 100
"""Erased keys of a partition beyond which rewriting all of its files at once is cheaper."""


class RocksStore(rocksdb.Store):  # type: ignore[misc]
    """Faust's RocksDB store (its files can be read by either), written by the batch.

    What recovery reads is in the changelog, so RocksDB need not log it a second time: that halves what goes to disk. A
    crash then takes the store back to what it had flushed, records and offset alike. It must not be left at that when
    logged writes follow, which would outlive what came before them: the store is flushed first.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._unlogged: set[int] = set()
        self._erased: dict[int, set[bytes]] = {}
        """Keys that were erased but whose bytes may still lie in files, by partition."""
        self._no_log = rocksdict.WriteOptions()
        self._no_log.disable_wal = True
        options = dict(kwargs.pop("options", None) or {})  # the stock store takes entries out of the table's own
        super().__init__(*args, options={**options, "driver": "rocksdict"}, **kwargs)

    def n_keys(self) -> int:
        """Keys held, over all partitions that are open: RocksDB's own estimate."""
        n = sum(db.property_int_value(_N_KEYS) or 0 for db in self._dbs.values())
        return max(n - len(self._dbs), 0)  # each holds the changelog's offset too

    def walk(self, partition: int) -> Iterator[tuple[bytes, bytes]]:
        """By key, a part at a time: an iterator that lives on would keep files, and outlive the database."""
        begin = b""
        while (db := self._dbs.get(partition)) is not None:
            found = db.iter()
            found.seek(begin)
            part: list[tuple[bytes, bytes]] = []
            while found.valid() and len(part) < _PART:
                part.append((found.key(), found.value()))
                found.next()
            del found
            yield from (pair for pair in part if pair[0] != self.offset_key)
            if len(part) < _PART:
                return
            begin = part[-1][0] + b"\0"

    def get_many(self, partition: int, keys: Iterable[bytes]) -> list[bytes | None]:
        get = self._db_for_partition(partition).get
        return [get(key) for key in keys]

    def write_many(
        self, tp: TP, writes: Iterable[tuple[bytes, bytes | None]], offset: int | None, *, logged: bool = True
    ) -> None:
        """Write at once, atomically. Without `logged` a crash may take it back, and what was written so before it."""
        batch = rocksdict.WriteBatch(raw_mode=True)
        for key, value in writes:
            if value is None:
                batch.delete(key)
                self._erased.setdefault(tp.partition, set()).add(key)
            else:
                batch.put(key, value)
        if offset is not None:
            batch.put(self.offset_key, str(offset).encode())
        try:
            self._write(tp.partition, batch, logged=logged)
        except Exception as error:  # rocksdict has no exceptions of its own
            raise PolytempoError(
                f"the store in {self.partition_path(tp.partition)} cannot be written: {error}.",
                "Make room, or delete it: the changelog has every state, and the next start reads it from there.",
            ) from error

    def _write(self, partition: int, batch: rocksdict.WriteBatch, *, logged: bool) -> None:
        db = self._db_for_partition(partition)
        if logged:
            if partition in self._unlogged:
                db.flush()
                self._unlogged.discard(partition)
            db.write(batch)
        else:
            self._unlogged.add(partition)
            db.write(batch, self._no_log)

    async def tidy(self) -> None:
        """Rewrite the files that still hold what was erased: a deletion alone only covers it up.

        RocksDB's list of its files names the first and last key of each, and is written anew when it is opened.
        In threads, one partition after the other. What a crash keeps from being done, RocksDB's own compaction does.
        """
        loop = asyncio.get_running_loop()
        for partition in list(self._erased):
            keys, db = self._erased.pop(partition), self._dbs.get(partition)
            if db is not None:
                await loop.run_in_executor(None, _rewrite, db, keys)

    async def stop(self) -> None:
        """Close the files, tidied."""
        await self.tidy()
        await super().stop()

    async def on_recovery_completed(self, active_tps: set[TP], standby_tps: set[TP]) -> None:
        """Flush what was not logged, before the first live write would have to wait for it."""
        await super().on_recovery_completed(active_tps, standby_tps)
        for partition in list(self._unlogged):
            db = self._dbs.get(partition)
            if db is not None:
                await asyncio.get_running_loop().run_in_executor(None, db.flush)
            self._unlogged.discard(partition)


def _rewrite(db: Any, keys: set[bytes]) -> None:
    db.flush()  # the log of writes is deleted with it
    options = rocksdict.CompactOptions()
    options.set_bottommost_level_compaction(rocksdict.BottommostLevelCompaction.force())
    if len(keys) > _MANY:
        db.compact_range(None, None, options)
        return
    for key in sorted(keys):
        db.compact_range(key, key + b"\0", options)
