"""The RocksDB store of a BatchTable: one database per partition, states and changelog offset in one atomic write."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import rocksdict
from faust.stores import rocksdb
from faust.types import TP

__all__ = ["RocksStore"]

_N_KEYS: Final = "rocksdb.estimate-num-keys"


class RocksStore(rocksdb.Store):  # type: ignore[misc]
    """Faust's RocksDB store (its files can be read by either), written by the batch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        options = dict(kwargs.pop("options", None) or {})  # the stock store takes entries out of the table's own
        super().__init__(*args, options={**options, "driver": "rocksdict"}, **kwargs)

    def n_keys(self) -> int:
        """Keys held, over all partitions that are open: RocksDB's own estimate."""
        n = sum(db.property_int_value(_N_KEYS) or 0 for db in self._dbs.values())
        return max(n - len(self._dbs), 0)  # each holds the changelog's offset too

    def get_many(self, partition: int, keys: Iterable[bytes]) -> list[bytes | None]:
        get = self._db_for_partition(partition).get
        return [get(key) for key in keys]

    def write_many(self, tp: TP, writes: Iterable[tuple[bytes, bytes | None]], offset: int | None) -> None:
        batch = rocksdict.WriteBatch(raw_mode=True)
        for key, value in writes:
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        if offset is not None:
            batch.put(self.offset_key, str(offset).encode())
        self._db_for_partition(tp.partition).write(batch)
