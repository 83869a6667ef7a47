"""A replayed log gives what the worker would have given: whatever the batches, and without knowledge of the future."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from stream.core.activity import ActivityBatch
from stream.core.events import EventBatch
from stream.core.scales import HOUR_MS, SECOND_MS
from stream.core.seam import Recommender
from stream.core.state import decode_states, encode_state
from stream.core.statistics import ItemStatistics
from tests.training.small_shop import SPEC, shop, shop_log
from training.log import Log, item_updates
from training.replay import RecordingScorer, Replay
from training.rows import record
from training.targets import find_targets

PERIOD_MS = 600 * SECOND_MS


def recorded(log: Log, batch_size: int, n_events: int | None = None) -> dict[str, NDArray[np.float32]]:
    """What a scorer is given for every event of a log, by input."""
    scorer = RecordingScorer(SPEC)
    replay = Replay(log, Recommender(SPEC, scorer), period_ms=PERIOD_MS, batch_size=batch_size)
    parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in scorer.inputs}
    for batch in replay.run(n_events):
        assert len(batch.rows) == batch.stop - batch.start
        for name, column in scorer.taken().items():
            parts[name].append(column)
    return {name: np.concatenate(columns) for name, columns in parts.items()}


@pytest.mark.parametrize("batch_size", [1, 7, 4096])
def test_how_events_fall_into_batches_changes_no_input(batch_size: int) -> None:
    log = shop_log(1_500)
    expected, found = recorded(log, 256), recorded(log, batch_size)
    for name, column in expected.items():
        np.testing.assert_array_equal(found[name], column, err_msg=name)


@pytest.mark.parametrize("delay_ms", [0, 2 * PERIOD_MS + 1])
def test_who_asks_seldom_is_told_what_who_always_asks_is_told(delay_ms: int) -> None:
    """The view is brought up to date only where somebody looks, at whichever age it is wanted."""
    log, rng = shop_log(1_500), np.random.default_rng(0)
    seldom = np.flatnonzero(rng.random(len(log)) < 0.01)
    found: list[dict[str, NDArray[np.float32]]] = []
    for rows in (np.arange(len(log)), seldom):
        scorer = RecordingScorer(SPEC)
        select = np.zeros(len(log), np.bool_)
        select[rows] = True
        recommender = Recommender(SPEC, scorer)
        replay = Replay(log, recommender, items=item_updates(shop().items), period_ms=PERIOD_MS, delay_ms=delay_ms)
        answered = [piece.rows for piece in replay.run(select=select)]
        assert np.concatenate(answered).tolist() == rows.tolist()
        found.append(scorer.taken())
    for name, column in found[1].items():
        np.testing.assert_array_equal(column, found[0][name][seldom], err_msg=name)


def test_the_inputs_are_those_of_a_worker_that_keeps_its_states_as_bytes() -> None:
    """A worker in miniature: events made from strings, states stored as bytes, a view that follows the activity."""
    log, frame = shop_log(1_200), shop().events.head(1_200)
    scorer = RecordingScorer(SPEC)
    recommender = Recommender(SPEC, scorer)
    view = ItemStatistics(SPEC.statistics)
    stored: dict[str, bytes] = {}
    pending: list[tuple[int, ActivityBatch]] = []
    parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in scorer.inputs}
    codes = SPEC.types.codes()
    periods = (frame["ts_ms"] // PERIOD_MS).to_list()
    start = 0
    while start < len(frame):
        stop = start
        while stop < len(frame) and periods[stop] == periods[start] and stop - start < 50:
            stop += 1
        part = frame[start:stop]
        batch = EventBatch.build(
            part["user_id"].to_list(),
            part["item_id"].to_list(),
            [codes[kind] for kind in part["event_type"].to_list()],
            part["ts_ms"].to_numpy(),
            offset=np.arange(start, stop),
            value=part["value"].fill_null(float("nan")).to_numpy(),
            event_ids=part["event_id"].to_list(),
            segments=log.segments[start:stop],
        )
        if start > 0 and periods[start] != periods[start - 1]:
            view.advance(pending)
            pending = []
        states = decode_states(SPEC.state, [stored.get(user) for user in batch.users])
        stepped = recommender.step(states, batch, view, source="log/0")
        for row, user in enumerate(batch.users):
            stored[user] = encode_state(stepped.folded.states, row)
        pending.append((stop - 1, stepped.activity))
        for name, column in scorer.taken().items():
            parts[name].append(column)
        start = stop
    found = recorded(log, 256)
    assert found["candidates"].shape == (1_200, 64)
    for name, columns in parts.items():
        np.testing.assert_array_equal(found[name], np.concatenate(columns), err_msg=name)


def test_nothing_that_comes_later_changes_what_was_seen_before() -> None:
    """
    log      |---- the same 800 events ----|---- other events, of an item that is everywhere ----|
    compared |xxxxxxxxxxxxxxxxxxxxxxxxxxxxx|
    """
    frame = shop().events.head(1_000)
    planted = pl.concat([frame.head(800), frame[800:].with_columns(item_id=pl.lit("planted"))])
    before = recorded(Log.of(frame, SPEC.types, ("device",)), 256, 800)
    after = recorded(Log.of(planted, SPEC.types, ("device",)), 256, 800)
    for name, column in before.items():
        np.testing.assert_array_equal(after[name], column, err_msg=name)


def test_an_item_is_not_known_before_it_is_published() -> None:
    log = shop_log(2_000)
    items = shop().items.with_columns(published_ms=pl.lit(int(log.ts_ms[1_000])))
    replay = Replay(log, Recommender(SPEC, RecordingScorer(SPEC)), items=item_updates(items), period_ms=HOUR_MS)
    for batch in replay.run():
        known = np.isin(replay.view.catalogue.category, [-1], invert=True).any()
        assert known == (log.ts_ms[batch.start] // HOUR_MS * HOUR_MS >= log.ts_ms[1_000])


def test_rows_hold_the_target_at_its_label_and_count_the_targets_that_were_no_candidates(tmp_path: Path) -> None:
    log = shop_log(4_000)
    targets = find_targets(log, SPEC.types.weight_table())
    replay = Replay(log, Recommender(SPEC, RecordingScorer(SPEC)), period_ms=PERIOD_MS)
    rows = record(replay, targets, tmp_path, until=len(log))
    assert 0 < len(rows) < rows.n_targets == len(targets)
    assert (rows.label < rows.n_candidates).all()
    full = recorded(log, 256)
    scored = targets.target_of(len(log))
    for at in range(0, len(rows), 97):
        event = int(np.flatnonzero(scored == rows.row[at])[0])
        wanted = replay.view.catalogue.number(log.item_ids[log.item[rows.row[at]]])
        assert full["candidates"][event, rows.label[at]] == wanted
        np.testing.assert_array_equal(rows.candidate_features[at], full["candidate_features"][event].astype(np.float16))
        np.testing.assert_array_equal(rows.context_features[at], full["context_features"][event].astype(np.float16))
