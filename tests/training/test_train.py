"""From a small simulated shop to bundles that recommend better than popularity, in seconds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from msgspec import UNSET
from msgspec.structs import replace

from stream.bundle.load import load_bundle
from stream.bundle.manifest import Policy as BundlePolicy
from stream.cli.main import main
from stream.core.seam import Recommender
from stream.errors import PolytempoError
from tests.training.small_shop import shop
from training.backtest.execute import Backtest, tasks_of
from training.backtest.judged import Judged, judged_targets
from training.backtest.material import material_of
from training.backtest.run import Conditions
from training.config import Config, Data, Features, Output, RankerTraining, RecurrentTraining, Window
from training.drift import Drift, drift_of, references_of
from training.job import Trained
from training.judging import evaluate_bundle
from training.listwise import Ensemble
from training.log import Log, item_updates
from training.material import prepare
from training.nets.ranker import PADDING_SCORE, Ranker, RankerConfig
from training.replay import Replay
from training.rowmaking import Recipe, make_rows
from training.shards import Description
from training.train import train

FEATURES = Features(
    popularity=("all:1h", "continuing:1d", "all:1d:device"),
    co_visitation=("next:1d", "any:7d"),
    segments={"device": 2},
    slots=32,
    candidates=64,
    lists={"all:1h": 30},
    newest=5,
)


def config(path: Path, model: RankerTraining | RecurrentTraining, name: str = "small") -> Config:
    return Config(
        bundle=Output(str(path), name),
        data=Data(file="shop.parquet"),
        model=model,
        window=Window(train_share=0.7),
        features=FEATURES,
        policy=BundlePolicy(n=10, seen="session"),
        period="10m",
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("models")
    settings = config(folder / "ranker", RankerTraining(hidden=(16, 8), epochs=3, batch=32))
    return train(settings, command="train it", tables=(shop().events, shop().items))


def test_a_ranker_beats_popularity_and_co_visitation(trained: Trained) -> None:
    metrics = trained.manifest.metrics
    assert metrics["hr@10"] > 1.3 * metrics["popularity_1h/hr@10"]
    assert metrics["hr@10"] > metrics["popularity/hr@10"]
    assert metrics["ndcg@10"] > metrics["co_visitation/ndcg@10"]


def test_the_bundle_says_where_it_comes_from(trained: Trained) -> None:
    manifest = load_bundle(trained.path).manifest
    assert manifest.training.command == "train it"
    assert manifest.training.source == "shop.parquet"
    first_ms, last_ms = (int(shop().events["ts_ms"][at]) for at in (0, -1))
    assert manifest.training.from_ms == first_ms
    assert first_ms < manifest.training.to_ms < last_ms
    assert 0 < manifest.training.n_events < len(shop().events)
    assert manifest.policy == BundlePolicy(n=10, seen="session")


def test_a_bundle_judged_on_a_replay_from_the_beginning_has_the_figures_of_its_training(trained: Trained) -> None:
    settings = config(trained.path, RankerTraining())
    material = prepare(settings, (shop().events, shop().items))
    evaluation = evaluate_bundle(load_bundle(trained.path), material, period_ms=600_000)
    split = material.log.between(0, material.split_ms).stop
    known = material.validate.scored >= split  # the few others were scored before training had ended
    assert known.mean() > 0.99
    for name, place in trained.evaluation.place.items():
        np.testing.assert_array_equal(evaluation.place[name][known], place, err_msg=name)


def test_the_same_seed_trains_the_same_bundle(trained: Trained, tmp_path: Path) -> None:
    settings = config(tmp_path / "again", RankerTraining(hidden=(16, 8), epochs=3, batch=32))
    again = train(settings, command="train it", tables=(shop().events, shop().items))
    assert again.manifest.digest() == trained.manifest.digest()


def test_rows_made_before_train_the_same_bundle(trained: Trained, tmp_path: Path) -> None:
    settings = config(tmp_path / "again", RankerTraining(hidden=(16, 8), epochs=3, batch=32))
    events = shop().events
    material = prepare(settings, (events, shop().items))
    recipe = Recipe(material.spec, period_ms=600_000)
    described = Description.of(
        material.spec, source="shop", from_ms=0, until_ms=2**62, period_ms=600_000, seen="session", log="shop"
    )
    made = make_rows(material.log, material.items, material.train, recipe, tmp_path / "rows", described)
    assert made is not None
    again = train(settings, command="train it", tables=(events, shop().items), rows=tmp_path / "rows")
    assert again.manifest.metrics == trained.manifest.metrics
    assert again.manifest.digest() == trained.manifest.digest()
    with pytest.raises(PolytempoError, match="other features"):
        prepare(replace(settings, features=replace(FEATURES, slots=16)), (events, shop().items), tmp_path / "rows")


def test_a_backtest_of_what_came_after_training_has_the_figures_of_the_training(
    trained: Trained, tmp_path: Path
) -> None:
    """The same targets through the other command's code: every place of every list is the same."""
    bundle = load_bundle(trained.path)
    settings = config(trained.path, RankerTraining())
    material = prepare(settings, (shop().events, shop().items))
    split = material.log.between(0, material.split_ms).stop
    expected = material.validate.where(material.validate.scored >= split)
    tested = material_of(shop().events.sort("ts_ms", maintain_order=True), bundle.features.types, material.items)
    judged = Judged(from_ms=bundle.manifest.training.to_ms)
    found = judged_targets(tested.log, tested.types, tested.fields, judged)
    found = found.where(found.scored >= split)
    assert found.row.tolist() == expected.row.tolist()
    outcomes = Backtest(tested, found, Conditions(period_ms=600_000), tmp_path).go(tasks_of([trained.path]))
    assert outcomes is not None
    for outcome in outcomes:
        name = "model" if outcome.name == bundle.reference else outcome.name
        np.testing.assert_array_equal(outcome.place, trained.evaluation.place[name], err_msg=name)
    metrics = outcomes[-1].metrics()
    assert round(metrics["hr_at_10"], 5) == trained.manifest.metrics["hr@10"]
    assert round(metrics["ndcg_at_10"], 5) == trained.manifest.metrics["ndcg@10"]


def test_a_bundle_trained_on_a_part_of_the_log_is_served_on_all_of_it(trained: Trained) -> None:
    bundle = load_bundle(trained.path)
    material = prepare(config(trained.path, RankerTraining()), (shop().events, shop().items))
    replay = Replay(material.log, Recommender(bundle.features, bundle.scorer), items=material.items, period_ms=600_000)
    for batch in replay.run(2_000):
        assert len(batch.rows) == batch.stop - batch.start
        assert np.isfinite(batch.answers.ranked.scores).all()


def test_a_recurrent_model_trains_and_serves_through_the_same_seam(tmp_path: Path) -> None:
    model = RecurrentTraining(n_state=16, epochs=12, n_best=60, length=30, batch=16, learning_rate=1e-2)
    done = train(config(tmp_path / "gru", model), command="train it", tables=(shop().events, shop().items))
    metrics = done.manifest.metrics
    assert done.manifest.n_state == 16
    assert done.manifest.space == "vocabulary"
    # A second of training on two days gives no good model; by chance it would hit one target in 15.
    assert metrics["hr@10"] > 0.1


def test_an_ensemble_scores_with_the_mean_of_its_members() -> None:
    torch.manual_seed(0)
    members = [Ranker(RankerConfig(6, 4)).eval() for _ in range(3)]
    inputs = torch.arange(10).reshape(2, 5), torch.randn(2, 5, 6), torch.randn(2, 4)
    with torch.no_grad():
        _, scores = Ensemble(members)(*inputs)
        expected = sum(member(*inputs)[1] for member in members) / 3
    torch.testing.assert_close(scores, expected)


def test_a_log_that_lacks_a_context_field_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(PolytempoError, match="no context field device"):
        prepare(config(tmp_path, RankerTraining()), (shop().events.drop("device"), None))


def test_a_log_without_sessions_is_refused(tmp_path: Path) -> None:
    lonely = shop().events.unique("user_id", keep="first", maintain_order=True)
    with pytest.raises(PolytempoError, match="targets to train on"):
        prepare(config(tmp_path, RankerTraining()), (lonely, None))


def test_padding_changes_no_score_and_scores_last() -> None:
    torch.manual_seed(0)
    model = Ranker(RankerConfig(6, 4)).eval()
    features, context = torch.randn(3, 10, 6), torch.randn(3, 4)
    candidates = torch.arange(30).reshape(3, 10)
    with torch.no_grad():
        _, expected = model(candidates[:, :7], features[:, :7], context)
        padded = torch.where(torch.arange(10) < 7, candidates, -1)
        items, scores = model(padded, features, context)
    assert (items == padded).all()
    torch.testing.assert_close(scores[:, :7], expected)
    assert (scores[:, 7:] == PADDING_SCORE).all()


def test_an_event_without_candidates_has_scores_all_the_same() -> None:
    model = Ranker(RankerConfig(6, 4)).eval()
    with torch.no_grad():
        _, scores = model(torch.full((2, 5), -1), torch.zeros(2, 5, 6), torch.zeros(2, 4))
    assert (scores == PADDING_SCORE).all()


# ---- drift ----------------------------------------------------------------------------------------------------------


def looked_at(trained: Trained, events: pl.DataFrame) -> list[Drift]:
    bundle = load_bundle(trained.path)
    log = Log.of(events, bundle.features.types, bundle.features.statistics.segment_fields)
    from_ms = bundle.manifest.training.from_ms + 12 * 3_600_000  # before it statistics are only filling
    return drift_of(bundle, log, item_updates(shop().items), from_ms=from_ms, window_ms=2**40, period_ms=600_000)


def test_the_events_of_training_are_no_drift(trained: Trained) -> None:
    training = load_bundle(trained.path).manifest.training
    (window,) = looked_at(trained, shop().events.filter(pl.col("ts_ms") < training.to_ms))
    assert window.n_events > 500
    assert window.index["score"] < 0.1
    assert window.verdict != "changed", window.worst


def test_events_of_another_kind_are_drift(trained: Trained) -> None:
    """From the training's end on every user looks at a few items only."""
    training = load_bundle(trained.path).manifest.training
    events = shop().events
    few = events["item_id"].unique().sort().head(3).to_list()
    here = pl.col("ts_ms") >= training.from_ms + 12 * 3_600_000
    changed = events.with_columns(
        item_id=pl.when(here).then(pl.lit(few[0])).otherwise(pl.col("item_id")), device=pl.lit("fridge")
    )
    (window,) = looked_at(trained, changed)
    assert window.verdict == "changed"
    assert window.worst[1] > 1


def test_a_bundle_that_does_not_know_its_training_says_so(trained: Trained) -> None:
    bundle = load_bundle(trained.path)
    assert "score" in references_of(bundle)
    old = dataclasses.replace(bundle, manifest=replace(bundle.manifest, distributions=UNSET))
    with pytest.raises(PolytempoError, match="does not say what it was trained on"):
        references_of(old)


def test_the_drift_command_says_which_feature_moved(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = load_bundle(trained.path).manifest.training
    log = tmp_path / "log.parquet"
    shop().events.with_columns(device=pl.lit("fridge")).write_parquet(log)
    since = str(training.from_ms + 12 * 3_600_000)
    command = ["drift", "--log", str(log), "-b", str(trained.path), "--since", since, "--window", "1d", "--json"]
    assert main(command) == 1
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(said["windows"]) >= 2
    for window in said["windows"]:
        assert window["psi"]["context:segment/device/0"] > 0.25
        assert window["until_ms"] - window["from_ms"] == 86_400_000
