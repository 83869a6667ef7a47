"""Shards give the batches of the log in memory, in memory that does not grow with it."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from stream.errors import PolytempoError
from training.fit import Checkpoint, FitConfig, fit
from training.losses import full_cross_entropy
from training.nets.tempo import Tempo, TempoConfig
from training.sequence_shards import Shards, cut_shards
from training.sequences import HORIZONS_MS, UserSequences, batches, cut_sequences, frequent_items

N_ITEMS = 40
AT_ONCE = 5_000


def part(number: int, n_rows: int) -> pl.DataFrame:
    """A part of a log: made when it is asked for, so that the log itself takes no memory."""
    rng = np.random.default_rng(number)
    item = rng.integers(0, N_ITEMS, n_rows)
    return pl.DataFrame(
        {
            "user_id": [f"user-{user}" for user in rng.integers(0, 50, n_rows) + 50 * (number // 2)],
            "item_id": [f"item-{each}" if each > 0 else "" for each in item],
            "ts_ms": 1_700_000_000_000 + number * 3_600_000 + rng.integers(0, 3_600, n_rows) * 1_000,
            "event_type": rng.choice(["view", "purchase", "return"], n_rows),
            "value": np.where(rng.random(n_rows) < 0.5, np.nan, rng.normal(size=n_rows)),
        }
    )


def log(n_parts: int, n_rows: int = 300) -> Callable[[], Iterator[pl.DataFrame]]:
    return lambda: (part(number, n_rows) for number in range(n_parts))


def test_one_shard_gives_the_batches_of_the_log_in_memory(tmp_path: Path) -> None:
    frame = pl.concat(log(4)())
    whole = cut_sequences(frame, frequent_items(frame)[:30])
    shards = cut_shards(log(4), tmp_path, n_items=30)
    assert shards.vocabulary == whole.vocabulary
    order = {"n_batch": 4, "max_length": 10, "seed": 3, "horizons_ms": HORIZONS_MS}
    for epoch in range(2):
        pairs = zip(
            batches(whole, epoch=epoch, **order),  # type: ignore[arg-type]  # one dict for both
            Shards.open(tmp_path).batches(epoch=epoch, **order),  # type: ignore[arg-type]  # one dict for both
            strict=True,
        )
        for expected, found in pairs:
            for field in fields(expected):
                assert torch.equal(getattr(found, field.name), getattr(expected, field.name)), field.name


def test_many_shards_hold_each_users_events_once_and_whole(tmp_path: Path) -> None:
    frame = pl.concat(log(6)())
    whole = cut_sequences(frame, frequent_items(frame))
    shards = cut_shards(log(6), tmp_path, n_events=300)
    assert len(shards.n_events) == 6
    assert sum(shards.n_events) == len(frame)

    def histories(found: UserSequences) -> list[bytes]:
        return [
            b"".join(getattr(found, name)[begin:end].tobytes() for name in ("item", "ts_ms", "value"))
            for begin, end in pairwise(found.start)
        ]

    found = [each for shard in range(6) for each in histories(shards.sequences(shard))]
    assert sorted(found) == sorted(histories(whole))


def test_epochs_have_an_order_of_their_own_that_their_number_decides(tmp_path: Path) -> None:
    shards = cut_shards(log(6), tmp_path, n_events=300)
    order = partial(shards.batches, n_batch=4, max_length=10, seed=3)
    first, again, second = (torch.cat([b.item.flatten() for b in order(epoch=epoch)]) for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert len(list(order(epoch=0))) == len(list(order(epoch=1)))


class KilledError(Exception):
    """Stands for a kill."""


def test_a_run_over_shards_goes_on_after_a_kill_as_if_nothing_had_happened(tmp_path: Path) -> None:
    shards = cut_shards(log(3), tmp_path / "shards", n_events=300)
    config = FitConfig(n_epochs=2, seed=1)

    def train(checkpoint: Path | None = None, kill_at: int = -1) -> Tempo:
        torch.manual_seed(config.seed)
        model = Tempo(TempoConfig(len(shards.vocabulary), d=8, n_layers=1, n_scales=2))
        order = partial(shards.batches, n_batch=8, max_length=10, seed=config.seed)

        def on_step(done: int) -> None:
            if done == kill_at:
                raise KilledError

        fit(
            model,
            lambda epoch: order(epoch=epoch),
            lambda batch: model.loss(batch, full_cross_entropy),
            config,
            checkpoint=None if checkpoint is None else Checkpoint(checkpoint, every=3),
            on_step=on_step,
        )
        return model

    whole = train().state_dict()
    with pytest.raises(KilledError):
        train(tmp_path / "run.pt", kill_at=8)
    for name, tensor in train(tmp_path / "run.pt").state_dict().items():
        assert torch.equal(tensor, whole[name])


def test_memory_does_not_grow_with_the_log(tmp_path: Path) -> None:
    """What Python and NumPy hold at most, for 40,000 and for 400,000 events in shards of 10,000."""

    def peak(n_parts: int) -> int:
        tracemalloc.start()
        shards = cut_shards(log(n_parts, AT_ONCE), tmp_path / str(n_parts), n_events=10_000)
        for _ in shards.batches(n_batch=16, max_length=50, seed=0, epoch=0):
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(2)  # what is made once
    short, long = peak(8), peak(80)
    assert long < 1.5 * short


def test_a_folder_without_shards_or_with_half_of_them_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolytempoError, match="holds no shards"):
        Shards.open(tmp_path)

    def broken() -> Iterator[pl.DataFrame]:
        yield part(0, 10).with_columns(event_type=pl.lit("dance"))

    with pytest.raises(ValueError, match="dance"):
        cut_shards(broken, tmp_path)
    with pytest.raises(PolytempoError, match="holds no shards"):
        Shards.open(tmp_path)
