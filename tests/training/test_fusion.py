"""A sequence model and the ranker that hears it, trained on slices that do not touch, served as one bundle."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from msgspec.structs import replace as changed
from numpy.typing import NDArray

from stream.bundle.load import load_bundle
from stream.bundle.manifest import Retrieval
from stream.core.candidates import FROM_SEQUENCE
from stream.core.catalogue import ItemUpdate
from stream.core.seam import Policy, Recommender
from tests.training.small_shop import shop
from tests.training.test_train import FEATURES, config
from training.compare.fused import spec_for
from training.config import Config, FusionTraining, RankerTraining
from training.fusion import MEMBER, RANKER, live_columns, sequences_of, slices
from training.job import Trained
from training.log import Log, item_updates
from training.material import Material, prepare
from training.nets.fusion import GIVEN
from training.replay import RecordingScorer, Replay
from training.rows import record
from training.targets import Targets
from training.train import train
from training.warm import read_start

MODEL = FusionTraining(
    d=16, scales=2, epochs=3, length=40, member_share=0.5, ranker=RankerTraining(hidden=(16, 8), epochs=3, batch=32)
)
SPEC = spec_for(repeats=False)
TABLES = (shop().events, shop().items)


def fused(path: Path, model: FusionTraining = MODEL) -> Config:
    features = changed(FEATURES, retrieved=20, words=64)
    return changed(config(path, RankerTraining(), "fused"), model=model, features=features)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(fused(tmp_path_factory.mktemp("models") / "fused"), command="train it", tables=TABLES)


def test_one_bundle_holds_both_and_beats_the_baselines(trained: Trained) -> None:
    bundle = load_bundle(trained.path)
    assert isinstance(bundle.manifest.retrieval, Retrieval)
    assert bundle.retriever is not None
    assert {"query", "candidate_index", "candidate_content"} <= set(bundle.manifest.inputs)
    metrics = trained.manifest.metrics
    assert metrics["hr@10"] > 1.3 * metrics["popularity_1h/hr@10"]
    assert metrics["ndcg@10"] > metrics["co_visitation/ndcg@10"]
    assert {"score", "candidate:age", "context:session"} <= bundle.distributions.keys()


def test_what_is_recommended_comes_from_the_sequence_model_too(trained: Trained) -> None:
    bundle, material = load_bundle(trained.path), prepare(fused(trained.path), TABLES)
    recommender = Recommender(
        bundle.features, bundle.scorer, bundle.vocabulary, Policy(10), bundle.tag, bundle.retriever
    )
    replay = Replay(material.log, recommender, items=material.items, period_ms=600_000)
    sources = np.concatenate([batch.answers.ranked.sources.ravel() for batch in replay.run(1500)])
    assert 0 < np.count_nonzero(sources & FROM_SEQUENCE) < len(sources)
    replay.view.update_items([ItemUpdate("brand-new", "category-1", "just announced", published_ms=2**41)])
    replay.view.refresh()
    log = material.log
    batch = log.batch(1500, 1501)
    wide = Recommender(bundle.features, bundle.scorer, bundle.vocabulary, Policy(64), bundle.tag, bundle.retriever)
    states = replay.states.get(log.user[1500:1501])
    ranked = wide.step(states, batch, replay.view, source="log/0").ranked
    place = ranked.items[0].tolist().index(replay.view.catalogue.number("brand-new"))
    assert np.isfinite(ranked.scores[0, place]), "an item announced now is scored now"


def later_events(events: pl.DataFrame, share: float, change: Callable[[pl.DataFrame], pl.DataFrame]) -> pl.DataFrame:
    """The log with its events after this share of its span changed."""
    times = events["ts_ms"]
    from_ms = int(times.min() + (times.max() - times.min()) * share)  # type: ignore[operator]  # it is not empty
    before, after = events.filter(pl.col("ts_ms") < from_ms), events.filter(pl.col("ts_ms") >= from_ms)
    return pl.concat([before, change(after)])


def planted(after: pl.DataFrame) -> pl.DataFrame:
    """A signal that nobody could overlook: from here on, everything is about one of two items."""
    names = after["item_id"].drop_nulls().unique().sort()[:2]
    return after.with_columns(item_id=pl.Series([names[n % 2] for n in range(len(after))]))


def test_nothing_of_a_later_slice_reaches_what_learns_from_an_earlier_one() -> None:
    """
    share of the span   0        .35         .7          1
                        | sequence | ranker's | judged    |
    planted here                   |xxxxxxxxxxxxxxxxxxxxxx|     what the sequence model learns from is the same
    planted here                              |xxxxxxxxxxx|     and so is all that the ranker is told
    """
    settings = fused(Path("fused"))
    clean = prepare(settings, TABLES)
    window, later = slices(clean.log, clean.train, clean.from_ms, clean.split_ms, MODEL.member_share)
    sequences = sequences_of(clean.log, clean.spec, window, MODEL.n_items)
    split = clean.log.between(0, clean.split_ms).stop
    assert 0 < len(later) < len(clean.train)
    assert later.scored.min() >= window.stop >= len(sequences)
    assert later.row.max() < split
    for share in (0.71, 0.36):
        dirty = prepare(settings, (later_events(shop().events, share, planted), shop().items))
        dirty_window, dirty_later = slices(dirty.log, dirty.train, dirty.from_ms, dirty.split_ms, MODEL.member_share)
        assert dirty_window == window
        again = sequences_of(dirty.log, dirty.spec, window, MODEL.n_items)
        assert again.vocabulary == sequences.vocabulary
        for name in ("item", "kind", "ts_ms", "value", "positive"):
            np.testing.assert_array_equal(getattr(again, name), getattr(sequences, name))
        told = [rows_told(material, targets) for material, targets in ((clean, later), (dirty, dirty_later))]
        same = [np.array_equal(a, b) for a, b in zip(*told, strict=True)]
        assert all(same) == (share > 0.7), "planted among its own targets, the ranker must see it"


def rows_told(material: Material, targets: Targets) -> tuple[NDArray[Any], ...]:
    """All that a ranker is taught, but for what a sequence model says."""
    recommender = Recommender(material.spec, RecordingScorer(material.spec))
    replay = Replay(material.log, recommender, items=material.items, period_ms=600_000)
    with tempfile.TemporaryDirectory() as folder:
        split = material.log.between(0, material.split_ms).stop
        rows = record(replay, targets, Path(folder), until=split)
        return np.array(rows.candidate_features), rows.context_features, rows.label, rows.row


def test_a_warm_start_takes_both_halves_over_and_what_the_ranker_is_given_comes_from_its_own_sequence_model(
    trained: Trained, tmp_path: Path
) -> None:
    """With steps too small to count, all weights but those of new items are the ones before."""
    start = read_start(trained.path)
    assert start is not None
    gone = start.vocabulary[3]
    still = changed(MODEL, epochs=1, learning_rate=1e-12, ranker=changed(MODEL.ranker, epochs=1, learning_rate=1e-12))
    events = shop().events
    renamed = events.with_columns(item_id=events["item_id"].replace(gone, "new-here"))
    again = train(fused(tmp_path / "again", still), command="again", tables=(renamed, shop().items), start=start)
    kept = read_start(again.path)
    assert kept is not None
    assert kept.vocabulary != start.vocabulary
    before, after = start.below(MEMBER), kept.below(MEMBER)
    place = {item: row for row, item in enumerate(kept.vocabulary, 1)}
    for name in ("events.items.own.weight", "bias"):
        first = int(name != "bias")
        rows = [place[item] - 1 + first for item in start.vocabulary if item != gone]
        had = [row + first for row, item in enumerate(start.vocabulary) if item != gone]
        torch.testing.assert_close(after.weights[name][rows], before.weights[name][had])
    torch.testing.assert_close(after.weights["gate.weight"], before.weights["gate.weight"])
    for name, tensor in kept.below(RANKER).weights.items():
        if name not in GIVEN:
            torch.testing.assert_close(tensor, start.weights[f"{RANKER}{name}"])
    table = kept.weights[f"{RANKER}representation"]
    row = place[start.vocabulary[0]]
    torch.testing.assert_close(table[row], start.weights[f"{RANKER}representation"][1], atol=1e-5, rtol=1e-5)
    assert gone in place, "what the bundle before knew keeps its row"


def test_only_live_statistics_are_muted_without_them() -> None:
    names = np.array(live_columns(SPEC))
    assert len(names) == len(set(names.tolist())) == 3 + 3 * 4 + 2


def test_a_log_and_its_items_make_the_sequences_that_are_served() -> None:
    """Users in the order of the log, their events by time, gaps as the worker sees them."""
    log = Log.of(shop().events, SPEC.types)
    sequences = sequences_of(log, SPEC, slice(0, 2000), 50)
    assert len(sequences.vocabulary) == 50
    for user in (0, 3, 17):
        rows = np.flatnonzero((log.user[:2000] == user) & log.happened()[:2000])
        own = slice(*sequences.start[user : user + 2].tolist())
        assert sequences.ts_ms[own].tolist() == log.ts_ms[rows].tolist()
        known = [sequences.vocabulary[n - 1] if n > 0 else None for n in sequences.item[own].tolist()]
        names = [log.item_ids[item] for item in log.item[rows].tolist()]
        assert all(said in (None, name) for said, name in zip(known, names, strict=True))
    assert len(item_updates(shop().items)) > 0
