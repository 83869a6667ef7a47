"""Rows in shards: the same as recorded in one go, however often interrupted; and a future that leaks is caught."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from stream.errors import PolytempoError
from tests.training.small_shop import SPEC, shop, shop_log
from training.leaks import check_rows
from training.log import Log, item_updates
from training.replay import Replay, Replayed
from training.rowmaking import Recipe, make_rows
from training.rows import record
from training.shards import CHECKPOINT, Description, read_rows, shards_of
from training.targets import Targets, find_targets

RECIPE = Recipe(SPEC, period_ms=60_000)
N_EVENTS = 2_500


@pytest.fixture(scope="module")
def log() -> Log:
    return shop_log(N_EVENTS)


@pytest.fixture(scope="module")
def targets(log: Log) -> Targets:
    return find_targets(log, SPEC.types.weight_table())


def described(**more: Any) -> Description:
    facts = {"source": "shop", "from_ms": 0, "until_ms": 2**62, "period_ms": 60_000, "seen": "session", "log": "shop"}
    return Description.of(SPEC, **facts | more)


def made(log: Log, targets: Targets, folder: Path, recipe: Recipe = RECIPE) -> Description:
    done = make_rows(log, item_updates(shop().items), targets, recipe, folder, described())
    assert done is not None
    return done


def test_shards_hold_the_rows_that_training_records(log: Log, targets: Targets, tmp_path: Path) -> None:
    for folder in ("recorded", "read"):
        (tmp_path / folder).mkdir()
    replay = RECIPE.replay(log, item_updates(shop().items))
    one = record(replay, targets, tmp_path / "recorded", until=len(log))
    done = made(log, targets, tmp_path / "rows")
    assert done.complete
    assert (done.n_rows, done.n_targets) == (len(one), len(targets))
    two = read_rows(tmp_path / "rows", tmp_path / "read", inputs=replay.recommender.scorer.inputs)
    for name in ("candidate_features", "context_features", "n_candidates", "label", "row"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)
    assert one.recall == two.recall


def test_a_range_of_the_rows_can_be_read(log: Log, targets: Targets, tmp_path: Path) -> None:
    (tmp_path / "read").mkdir()
    made(log, targets, tmp_path / "rows")
    from_ms = int(log.ts_ms[len(log) // 2])
    inputs = RECIPE.replay(log, []).recommender.scorer.inputs
    rows = read_rows(tmp_path / "rows", tmp_path / "read", inputs=inputs, from_ms=from_ms)
    assert len(rows) > 50
    assert log.ts_ms[rows.row].min() >= from_ms


def test_rows_say_whose_they_are_and_what_came_next(log: Log, targets: Targets, tmp_path: Path) -> None:
    made(log, targets, tmp_path)
    frame = pl.concat([pl.read_parquet(file) for file in shards_of(tmp_path)])
    rows = frame["row"].to_numpy()
    assert frame["target_item"].to_list() == [log.item_ids[item] for item in log.item[rows]]
    assert frame["user_id"].to_list() == [log.user_ids[user] for user in log.user[rows]]
    assert (frame["scored_ms"] <= frame["target_ms"]).all()
    assert (frame["label"] < frame["n_candidates"]).all()


def test_an_interrupted_run_comes_to_the_same_rows(log: Log, targets: Targets, tmp_path: Path) -> None:
    made(log, targets, tmp_path / "whole")
    items, n_stops, done = item_updates(shop().items), 0, None
    while done is None:
        looks = iter(range(250))
        done = make_rows(
            log, items, targets, RECIPE, tmp_path / "parts", described(),
            stopped=lambda looks=looks: next(looks, None) is None,
        )  # fmt: skip
        n_stops += done is None
    assert n_stops >= 2
    assert not (tmp_path / "parts" / CHECKPOINT).exists()
    whole, parts = (
        pl.concat([pl.read_parquet(file) for file in shards_of(tmp_path / name)]) for name in ("whole", "parts")
    )
    assert whole.equals(parts)


def test_a_folder_belongs_to_one_set_of_rows(log: Log, targets: Targets, tmp_path: Path) -> None:
    made(log, targets, tmp_path)
    with pytest.raises(PolytempoError, match="holds other rows"):
        make_rows(log, [], targets, RECIPE, tmp_path, described(log="another"))


# ---- the future -----------------------------------------------------------------------------------------------------


class EarlyStatistics(Replay):
    """Counts what happens in the next while before it recommends: statistics refreshed past the row's time."""

    def run(self, until: int | None = None, select: NDArray[np.bool_] | None = None) -> Iterator[Replayed]:
        """As it is, from a view that is ahead."""
        log = self.log
        ahead = Replay(log, self.recommender, period_ms=self._period_ms)
        ahead.at, ahead.view = self.at, self.view
        for batch in super().run(until, select):
            stop = min(batch.stop + 20, len(log))
            if stop > batch.stop:
                step = self.recommender.step(
                    ahead.states.get(ahead.users(batch.stop, stop)),
                    log.batch(batch.stop, stop),
                    self.view,
                    source="early/0",
                    select=np.zeros(stop - batch.stop, np.bool_),
                )
                self.view.advance([(stop - 1, step.activity)], [])
            yield batch


class EarlyEvent(Replay):
    """Applies a user's next event before it recommends at this one: the label is in the features."""

    def run(self, until: int | None = None, select: NDArray[np.bool_] | None = None) -> Iterator[Replayed]:
        """As it is, with the records of users one event ahead."""
        log = self.log
        following = np.full(len(log), -1, np.int64)
        last: dict[int, int] = {}
        for row, user in enumerate(log.user.tolist()):
            if user in last:
                following[last[user]] = row
            last[user] = row
        item = log.item.copy()
        swapped = np.flatnonzero(following >= 0)
        item[swapped] = log.item[following[swapped]]
        self.log = replace(log, item=item)
        try:
            yield from super().run(until, select)
        finally:
            self.log = log


def test_rows_of_an_honest_replay_come_out_the_same_again(log: Log, targets: Targets, tmp_path: Path) -> None:
    made(log, targets, tmp_path)
    checked = check_rows(tmp_path, log, item_updates(shop().items), RECIPE, n_sample=25)
    assert checked.clean, checked.differences
    assert checked.n_again == 25
    assert checked.n_rows > 300


@pytest.mark.parametrize("leak", [EarlyStatistics, EarlyEvent])
@pytest.mark.parametrize("known", [False, True], ids=["checked by an honest replay", "checked by the leaky one"])
def test_a_planted_leak_is_caught(log: Log, targets: Targets, tmp_path: Path, leak: type[Replay], known: bool) -> None:
    """Also where the replay that checks leaks in the same way: there is nothing behind the event for it to see."""
    # Nothing that was seen is left out: else an event that comes early would take its own item off the list.
    honest = Recipe(SPEC, seen="none", period_ms=60_000)
    leaky = replace(honest, replay_of=leak)
    made(log, targets, tmp_path, leaky)
    checked = check_rows(tmp_path, log, item_updates(shop().items), leaky if known else honest, n_sample=15)
    assert not checked.clean
    assert checked.n_differ >= 10
    assert checked.differences


def test_a_label_that_is_not_what_came_next_is_caught(log: Log, targets: Targets, tmp_path: Path) -> None:
    made(log, targets, tmp_path)
    (first, *_) = shards_of(tmp_path)
    frame = pl.read_parquet(first)
    other = pl.when(pl.int_range(pl.len()) == 3).then(pl.lit("another")).otherwise(pl.col("target_item"))
    frame.with_columns(target_item=other).write_parquet(first)
    checked = check_rows(tmp_path, log, item_updates(shop().items), RECIPE, n_sample=1)
    assert checked.n_wrong == 1
    assert "not what the log says" in checked.differences[0]
