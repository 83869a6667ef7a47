"""Trouble with the local store: a full disk, and files that are gone."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

from tests.faults.round import START_S, Round, Scenario

__all__ = ["SCENARIOS"]

_DISK = "6m"  # RocksDB's files of the first seconds; 2,000 users' records are 4 MB a copy


@contextlib.asynccontextmanager
async def _small_disk(folder: Path) -> AsyncIterator[Path]:
    """A file system of a few MiB, in memory; needs the right to mount."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"this scenario mounts a small file system, which is refused: {done.stderr.strip()}"
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def _rocks(folder: Path) -> tuple[str, ...]:
    return ("--store", "rocksdb", "--data", str(folder))


async def full_disk(round_: Round) -> None:
    """Worker a's disk fills up: it ends and says why; b, with room, does what a left."""
    async with _small_disk(round_.folder / "disk") as disk:
        a = round_.worker("a", *_rocks(disk))
        await a.ready(START_S)
        async with round_.under_load():
            status = await a.ended(120)
            b = round_.worker("b", *_rocks(round_.folder / "data-b"))
            await b.ready(START_S)
        assert status != 0
        said = a.stderr.read_text(errors="replace")
        assert "No space left on device" in said, said[-2000:]
        round_.cluster.workers.remove(a)


async def deleted(round_: Round) -> None:
    """The store's files vanish while the worker runs, and again between two runs."""
    data = round_.folder / "data-a"
    a = round_.worker("a", *_rocks(data))
    await a.ready(START_S)
    async with round_.under_load():
        await round_.pause(2, 4)
        shutil.rmtree(data, ignore_errors=True)
        await round_.pause(2, 4)
        if a.process.poll() is None:
            a.process.terminate()
        round_.remarks["exit"] = await a.ended()
        round_.cluster.workers.remove(a)
        shutil.rmtree(data, ignore_errors=True)
        again = round_.worker("a", *_rocks(data))
        await again.ready(START_S)
        await asyncio.sleep(2)
        await again.stopped()
        shutil.rmtree(data)
        await round_.worker("a", *_rocks(data)).ready(START_S)


SCENARIOS = {
    "full-disk": Scenario("no space left for a RocksDB store (a tmpfs of 6 MiB: needs the right to mount)", full_disk),
    "store-deleted": Scenario("the files of a RocksDB store deleted, running and between two runs", deleted),
}
