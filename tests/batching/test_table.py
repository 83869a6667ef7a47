"""The overlay, the stores behind it and bulk recovery."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faust
import pytest
from faust.types import TP

from stream.batching import SETTINGS, BatchTable, use_batches
from stream.errors import PolytempoError

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Record:
    offset: int
    key: bytes
    value: bytes | None


@pytest.fixture(params=["memory://", "rocksdb://"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> BatchTable:
    """One contract for every store."""
    if request.param == "rocksdb://":
        pytest.importorskip("rocksdict")
    return new_table(tmp_path, request.param)


def new_table(path: Path, store: str) -> BatchTable:
    app = faust.App("table-test", broker="kafka://127.0.0.1:1", **{**SETTINGS, "datadir": str(path)})
    use_batches(app)
    return BatchTable(app, name="users", partitions=4, store=store)


def test_the_store_is_the_one_that_was_asked_for(tmp_path: Path) -> None:
    """Faust itself takes "rocksdb://" for none at all."""
    pytest.importorskip("rocksdict")
    names = {store: type(new_table(tmp_path, store).data).__name__ for store in ("memory://", "rocksdb://")}
    assert names == {"memory://": "MemoryStore", "rocksdb://": "RocksStore"}


def held(table: BatchTable, partition: int = 0) -> int | None:
    offset: int | None = table.data.persisted_offset(TP(table.changelog_topic_name, partition))
    return offset


def test_a_staged_value_is_loaded_but_not_stored(table: BatchTable) -> None:
    """The store is never ahead of the changelog."""
    table.stage(0, {b"k": b"v"})
    assert table.load(0, [b"k", b"other"]) == [b"v", None]
    assert table.data.get_many(0, [b"k"]) == [None]
    assert held(table) is None


def test_a_settled_value_is_stored_and_leaves_the_overlay(table: BatchTable) -> None:
    """With the changelog offset that the store now holds."""
    writes: dict[bytes, bytes | None] = {b"k": b"v", b"l": b"w"}
    table.settle(0, table.stage(0, writes), writes, 0, 1)
    assert table.data.get_many(0, [b"k", b"l"]) == [b"v", b"w"]
    assert (table.n_unsettled(), held(table)) == (0, 1)


def test_a_newer_staged_value_survives_an_older_one_settling(table: BatchTable) -> None:
    """stage v1 | stage v2 | settle v1: v2 is what a step must see."""
    first: dict[bytes, bytes | None] = {b"k": b"v1"}
    second: dict[bytes, bytes | None] = {b"k": b"v2"}
    n1, n2 = table.stage(0, first), table.stage(0, second)
    table.settle(0, n1, first, 0, 0)
    assert table.load(0, [b"k"]) == [b"v2"]
    table.settle(0, n2, second, 1, 1)
    assert (table.load(0, [b"k"]), table.n_unsettled()) == ([b"v2"], 0)


def test_equal_values_in_flight_are_not_mistaken_for_each_other(table: BatchTable) -> None:
    """None | v | None: after the first two have settled the pending deletion still counts."""
    gone: dict[bytes, bytes | None] = {b"k": None}
    back: dict[bytes, bytes | None] = {b"k": b"v"}
    n1, n2, n3 = table.stage(0, gone), table.stage(0, back), table.stage(0, gone)
    table.settle(0, n1, gone, 0, 0)
    table.settle(0, n2, back, 1, 1)
    assert table.load(0, [b"k"]) == [None]
    table.settle(0, n3, gone, 2, 2)
    assert (table.data.get_many(0, [b"k"]), table.n_unsettled()) == ([None], 0)


def test_partitions_do_not_see_each_other(table: BatchTable) -> None:
    """State of partition p comes from input partition p only."""
    table.stage(0, {b"k": b"zero"})
    table.settle(1, table.stage(1, {b"k": b"one"}), {b"k": b"one"}, 0, 0)
    assert (table.load(0, [b"k"]), table.load(1, [b"k"]), table.load(2, [b"k"])) == ([b"zero"], [b"one"], [None])


def test_the_offset_held_does_not_pass_a_gap(table: BatchTable) -> None:
    """Records 0..1 settled, then 5: whatever 2..4 are must be read by the next recovery."""
    for first, last in ((0, 1), (5, 5), (6, 6)):
        table.settle(0, table.stage(0, {b"k": b"v"}), {b"k": b"v"}, first, last)
    assert held(table) == 1


def test_recovered_records_apply_in_order_with_deletions(table: BatchTable) -> None:
    """k=1, l=1, k=2, l deleted."""
    table.apply_records(0, [Record(3, b"k", b"1"), Record(4, b"l", b"1")])
    table.apply_records(0, [Record(7, b"k", b"2"), Record(9, b"l", None)])
    assert (table.load(0, [b"k", b"l"]), held(table)) == ([b"2", None], 9)


def test_records_of_an_unlogged_recovery_are_there_as_well(table: BatchTable) -> None:
    """unlogged k=1 | recovered | settled l=1."""
    table.apply_records(0, [Record(0, b"k", b"1")], logged=False)
    assert (table.load(0, [b"k"]), held(table)) == ([b"1"], 0)
    asyncio.run(table.on_recovery_completed({TP(table.changelog_topic_name, 0)}, set()))
    writes: dict[bytes, bytes | None] = {b"l": b"1"}
    table.settle(0, table.stage(0, writes), writes, 1, 1)
    assert (table.load(0, [b"k", b"l"]), held(table)) == ([b"1", b"1"], 1)


_CRASH = """
import os, sys
from pathlib import Path
from tests.batching.test_table import Record, new_table

table = new_table(Path(sys.argv[1]), "rocksdb://")
table.apply_records(0, [Record(0, b"old", b"1")], logged=True)
table.apply_records(0, [Record(offset, b"k%d" % offset, b"1") for offset in range(1, 100)], logged=False)
if sys.argv[2] == "goes on":
    writes = {b"live": b"1"}
    table.settle(0, table.stage(0, writes), writes, 100, 100)
os._exit(0)
"""


@pytest.mark.parametrize(
    ("crash", "offset", "found"),
    [
        ("at once", 0, [b"1", None, None, None]),
        ("goes on", 100, [b"1", b"1", b"1", b"1"]),
    ],
)
def test_after_a_crash_records_and_offset_of_a_store_on_disk_agree(
    crash: str, offset: int, found: list[bytes | None], tmp_path: Path
) -> None:
    """logged 0 | unlogged 1..99 | crash, or a logged write first, before which everything else must have survived."""
    pytest.importorskip("rocksdict")
    subprocess.run([sys.executable, "-c", _CRASH, str(tmp_path), crash], cwd=ROOT, check=True, timeout=60)
    table = new_table(tmp_path, "rocksdb://")
    assert held(table) == offset
    assert table.load(0, [b"old", b"k1", b"k99", b"live"]) == found


def test_a_rebalance_clears_the_overlay(table: BatchTable) -> None:
    """What an old generation staged is nobody's."""
    table.stage(0, {b"k": b"v"})
    rebalance(table, assigned={0}, newly=set())
    assert (table.load(0, [b"k"]), table.n_unsettled()) == ([None], 0)


def rebalance(table: BatchTable, *, assigned: set[int], newly: set[int]) -> None:
    def tps(partitions: set[int]) -> set[Any]:
        return {TP(table.changelog_topic_name, partition) for partition in partitions}

    table.app.assignor.assigned_standbys = set  # type: ignore[method-assign,assignment]
    asyncio.run(table.on_rebalance(tps(assigned), set(), tps(newly)))


def test_memory_keeps_what_stays_assigned_and_drops_the_rest(tmp_path: Path) -> None:
    """Partition 0 stays, 1 goes, 2 comes back: 2 may have been written elsewhere, so it is read anew."""
    table = new_table(tmp_path, "memory://")
    for partition in (0, 1, 2):
        table.apply_records(partition, [Record(0, b"k%d" % partition, b"v")])
    rebalance(table, assigned={0, 2}, newly={2})
    assert [table.load(p, [b"k%d" % p]) for p in (0, 1, 2)] == [[b"v"], [None], [None]]
    assert [held(table, p) for p in (0, 1, 2)] == [0, None, None]


def test_what_recovery_completes_is_kept_for_standbys_too(tmp_path: Path) -> None:
    """Faust's own memory store deletes what standbys have read."""
    table = new_table(tmp_path, "memory://")
    table.apply_records(3, [Record(0, b"k", b"v")])
    asyncio.run(table.data.on_recovery_completed(set(), {TP(table.changelog_topic_name, 3)}))
    assert (table.load(3, [b"k"]), held(table, 3)) == ([b"v"], 0)


def test_a_batch_table_is_registered_for_recovery_and_not_written_directly(tmp_path: Path) -> None:
    """Only run_batches keeps store, changelog and commits in order."""
    table = new_table(tmp_path, "memory://")
    assert table.app.tables["users"] is table
    with pytest.raises(TypeError):
        table[b"k"] = b"v"
    with pytest.raises(TypeError):
        del table[b"k"]


def test_keys_are_counted_over_all_partitions(table: BatchTable) -> None:
    """Exactly in memory; on disk an estimate, which is exact for so few."""
    assert table.n_keys() == 0
    for partition, n in ((0, 3), (2, 5)):
        writes: dict[bytes, bytes | None] = {f"{partition}-{i}".encode(): b"v" for i in range(n)}
        table.settle(partition, table.stage(partition, writes), writes, 0, n - 1)
    assert table.n_keys() == 8


def test_a_store_that_cannot_be_written_says_where_and_that_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, above all: the worker ends, and its user is told what to do."""
    pytest.importorskip("rocksdict")
    table = new_table(tmp_path, "rocksdb://")

    class Full:
        def write(self, _batch: object) -> None:
            raise Exception("IO error: No space left on device")  # noqa: TRY002 - as rocksdict does

    monkeypatch.setattr(type(table.data), "_db_for_partition", lambda *_: Full())
    with pytest.raises(PolytempoError, match=r"users.*No space left on device.*the changelog has every state"):
        table.data.write_many(TP("changelog", 0), [(b"k", b"v")], 1)


def test_a_walk_meets_every_record_that_stays_once_while_others_come_and_go(table: BatchTable) -> None:
    """
    records   k000 ... k599, of another partition k9999
    meanwhile each that was met is deleted or written anew, and new ones come
    """
    keys = [f"k{number:03}".encode() for number in range(600)]
    tp = TP(table.changelog_topic_name, 0)
    table.data.write_many(tp, [(key, b"v") for key in keys], 599)
    table.data.write_many(TP(tp.topic, 1), [(b"k9999", b"v")], 0)
    met: list[bytes] = []
    for number, (key, value) in enumerate(table.walk(0)):
        met.append(key)
        assert value == b"v"
        table.data.write_many(tp, [(key, None if number % 2 else b"w"), (b"k%03dx" % number, b"v")], 600 + number)
    assert len(met) == len(set(met))
    assert set(keys) <= set(met)
    assert b"k9999" not in met
    assert dict(table.walk(1)) == {b"k9999": b"v"}
    assert list(table.walk(2)) == []
