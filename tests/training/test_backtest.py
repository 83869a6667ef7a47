"""Backtests: one answer, whatever the batches, processes, interruptions and the order of what came in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from stream.bundle.load import load_bundle
from stream.core.events import EventTypes
from stream.core.features import FeatureSpec
from stream.core.seam import Policy, Recommender
from stream.errors import PolytempoError
from stream.feed import partition_of
from tests.training.backtest_log import START_MS, material, table
from tests.worker.bundles import bundle
from training.backtest.execute import Backtest, tasks_of
from training.backtest.judged import Judged, judged_targets
from training.backtest.material import Material
from training.backtest.requests import asked_at_targets
from training.backtest.run import Conditions, Outcome, Share
from training.evaluate import Baselines, evaluate
from training.replay import Replay
from training.targets import Targets, find_targets

FADINGS: tuple[Literal["half-life", "e-fold"], ...] = ("half-life", "e-fold")
JUDGED = Judged(from_ms=START_MS + 1_500_000)


@pytest.fixture(scope="module")
def small() -> Material:
    return material()


@pytest.fixture(scope="module")
def targets(small: Material) -> Targets:
    found = judged_targets(small.log, small.types, small.fields, JUDGED)
    assert len(found) > 300
    return found


def outcomes(
    small: Material,
    targets: Targets,
    folder: Path,
    conditions: Conditions | None = None,
    *,
    names: tuple[str, ...] = ("ranker",),
    n_processes: int = 1,
    n_workers: int | None = None,
) -> list[Outcome]:
    tasks = tasks_of([bundle(name) for name in names], n_processes=n_processes, n_workers=n_workers)
    found = Backtest(small, targets, conditions or Conditions(), folder).go(tasks)
    assert found is not None
    return found


def alike(one: list[Outcome], two: list[Outcome]) -> bool:
    return [each.name for each in one] == [each.name for each in two] and all(
        (a.at == b.at).all()
        and (a.place == b.place).all()
        and (a.items == b.items).all()
        and np.allclose(a.scores, b.scores, atol=1e-6)
        for a, b in zip(one, two, strict=True)
    )


@pytest.fixture(scope="module")
def reference(small: Material, targets: Targets, tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    found = outcomes(small, targets, tmp_path_factory.mktemp("reference"))
    assert [each.name for each in found] == ["popularity", "popularity_1h", "co_visitation", "ranker@1"]
    assert all((each.at == np.arange(len(targets))).all() for each in found)
    return found


def test_what_users_go_on_to_beats_what_is_popular(reference: list[Outcome]) -> None:
    hit_rate = {each.name: each.metrics()["hr_at_10"] for each in reference}
    assert hit_rate["co_visitation"] > hit_rate["popularity"] + 0.2


def test_a_place_is_where_the_wanted_item_stands_in_the_list(
    small: Material, targets: Targets, reference: list[Outcome]
) -> None:
    wanted = small.log.item[targets.row]
    for outcome in reference:
        for which, place in enumerate(outcome.place.tolist()):
            listed = outcome.items[which].tolist()
            assert (listed.index(wanted[which]) + 1 if wanted[which] in listed else 0) == place


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_the_size_of_batches_changes_nothing(
    small: Material, targets: Targets, reference: list[Outcome], tmp_path: Path, batch_size: int
) -> None:
    assert alike(outcomes(small, targets, tmp_path, Conditions(batch_size=batch_size)), reference)


@pytest.mark.parametrize("n_processes", [2, 3])
def test_shares_of_the_users_put_together_are_the_whole(
    small: Material, targets: Targets, reference: list[Outcome], tmp_path: Path, n_processes: int
) -> None:
    assert alike(outcomes(small, targets, tmp_path, n_processes=n_processes), reference)


def test_several_processes_give_what_one_gives(
    small: Material, targets: Targets, reference: list[Outcome], tmp_path: Path
) -> None:
    tasks = tasks_of([bundle("ranker")], n_processes=2)
    assert [task.label for task in tasks] == ["0-baselines", "1-part-0", "1-part-1"]
    progress: list[tuple[int, int]] = []
    found = Backtest(small, targets, Conditions(), tmp_path).go(
        tasks, n_processes=2, on_progress=lambda done, n_all: progress.append((done, n_all))
    )
    assert found is not None
    assert alike(found, reference)
    assert progress[-1][0] == progress[-1][1]


def test_recommending_at_every_event_changes_no_figure(
    small: Material, targets: Targets, reference: list[Outcome], tmp_path: Path
) -> None:
    found = outcomes(small, targets, tmp_path, Conditions(every_event=True))
    assert alike(found, reference)
    assert found[-1].n_scored > reference[-1].n_scored


@pytest.mark.parametrize("name", ["ranker", "recurrent"])
def test_an_interrupted_backtest_goes_on_to_the_same_end(
    small: Material, targets: Targets, tmp_path: Path, name: str
) -> None:
    tasks = tasks_of([bundle(name)])
    whole = Backtest(small, targets, Conditions(), tmp_path / "whole").go(tasks)
    assert whole is not None
    n_stops, found = 0, None
    while found is None:
        looks = iter(range(100))
        found = Backtest(small, targets, Conditions(), tmp_path / "parts").go(
            tasks, stopped=lambda looks=looks: next(looks, None) is None
        )
        n_stops += found is None
    assert n_stops >= 3
    assert alike(found, whole)
    assert [each.examples for each in found] == [each.examples for each in whole]


def test_a_folder_belongs_to_one_backtest(small: Material, targets: Targets, tmp_path: Path) -> None:
    outcomes(small, targets, tmp_path)
    with pytest.raises(PolytempoError, match="holds another backtest: its conditions differ"):
        outcomes(small, targets, tmp_path, Conditions(k=5))


def test_the_order_in_which_users_come_at_one_moment_changes_nothing(
    targets: Targets, reference: list[Outcome], tmp_path: Path
) -> None:
    """Partitions of a topic leave it open which of two users' events of one second comes first."""
    frame = table()
    shuffled = frame.sort("user_id", maintain_order=True)
    again = material(shuffled)
    assert again.fingerprint() == material(frame).fingerprint()
    assert alike(outcomes(again, targets, tmp_path), reference)


def test_it_agrees_with_the_evaluation_of_training(small: Material, targets: Targets, reference: list[Outcome]) -> None:
    ranker = load_bundle(bundle("ranker"))
    recommender = Recommender(ranker.features, ranker.scorer, ranker.vocabulary, Policy(10, "session"), ranker.tag)
    log = replace(small.log, segments=small.log.segments[:, :0])
    evaluation = evaluate(Replay(log, recommender, period_ms=10_000), targets, until=len(log))
    assert (evaluation.place["model"] == reference[-1].place).all()


def test_statistics_of_one_worker_alone_are_everybodys(
    small: Material, targets: Targets, reference: list[Outcome], tmp_path: Path
) -> None:
    assert alike(outcomes(small, targets, tmp_path, n_workers=1), reference)


def test_workers_that_keep_their_own_have_the_users_of_kafkas_partitions(small: Material) -> None:
    user_ids = small.log.user_ids
    users = np.arange(len(user_ids))
    for part in range(4):
        mine = Share(part, 4, alone=True).has(users, user_ids)
        assert mine.tolist() == [partition_of(user_id.encode(), 4) == part for user_id in user_ids]


def test_statistics_kept_apart_are_worse(
    small: Material, targets: Targets, reference: list[Outcome], tmp_path: Path
) -> None:
    found = outcomes(small, targets, tmp_path, n_workers=8)
    for apart, shared in zip(found[:3], reference, strict=False):
        assert (apart.at == shared.at).all()
    assert found[2].place.astype(bool).mean() < reference[2].place.astype(bool).mean() - 0.05


def test_statistics_that_never_arrive_know_nothing(small: Material, targets: Targets, tmp_path: Path) -> None:
    for outcome in outcomes(small, targets, tmp_path, Conditions(delay_ms=10**9)):
        assert (outcome.items == -1).all()


def test_the_later_statistics_arrive_the_worse(small: Material, targets: Targets, tmp_path: Path) -> None:
    rates = [
        outcomes(small, targets, tmp_path / str(delay_ms), Conditions(delay_ms=delay_ms))[2].metrics()["hr_at_10"]
        for delay_ms in (0, 1_200_000)
    ]
    assert rates[0] > rates[1]


def test_a_recommendation_knows_nothing_of_what_comes_after_it(
    targets: Targets, reference: list[Outcome], tmp_path: Path
) -> None:
    """What is changed after a moment changes no list from before it: labels cannot leak into features."""
    frame = table()
    half = len(frame) * 3 // 4
    other = table(seed=1)
    changed = material(
        frame.with_columns(item_id=frame["item_id"].head(half).append(other["item_id"].tail(len(frame) - half)))
    )
    until_ms = int(frame.sort("ts_ms", maintain_order=True)["ts_ms"][half])
    small = material(frame)
    before = small.log.ts_ms[targets.scored] < until_ms - 1000
    names, changed_names = np.array(small.log.item_ids), np.array(changed.log.item_ids)
    found = outcomes(changed, targets, tmp_path)
    assert 100 < before.sum() < len(targets)
    for one, two in zip(reference, found, strict=True):
        assert (names[one.items[before]] == changed_names[two.items[before]]).all()


# ---- at the target's own time ---------------------------------------------------------------------------------------


def test_what_is_asked_at_the_targets_time_knows_all_that_was_over_and_nothing_more(
    small: Material, targets: Targets, tmp_path: Path
) -> None:
    """All-time popularity, counted by hand from the events of earlier periods."""
    asked, moved = asked_at_targets(small, targets)
    log, period_ms, weights = small.log, 10_000, small.types.weight_table()
    assert (asked.log.item[moved.row] == log.item[targets.row]).all()
    assert (asked.log.ts_ms[moved.scored] == log.ts_ms[targets.row]).all()
    assert (asked.log.user[moved.scored] == log.user[targets.row]).all()
    assert (moved.scored == moved.row - 1).all()
    assert np.array_equal(np.delete(asked.log.item, moved.scored), log.item)
    found = Backtest(asked, moved, Conditions(period_ms=period_ms, seen="none"), tmp_path).go(tasks_of([]))
    assert found is not None
    for which in range(0, len(targets), 40):
        now_ms = int(log.ts_ms[targets.row[which]])
        over = log.ts_ms < now_ms // period_ms * period_ms
        counts = np.bincount(log.item[over], weights[log.kind[over]], len(log.item_ids))
        listed = found[0].items[which]
        listed = listed[listed >= 0]
        best = np.sort(counts)[::-1][: len(listed)]
        np.testing.assert_allclose(counts[listed], best, rtol=1e-3)


def test_asking_later_knows_more_than_asking_at_the_event_before(
    small: Material, targets: Targets, reference: list[Outcome], tmp_path: Path
) -> None:
    asked, moved = asked_at_targets(small, targets)
    found = Backtest(asked, moved, Conditions(), tmp_path).go(tasks_of([bundle("ranker")]))
    assert found is not None
    assert [each.name for each in found] == [each.name for each in reference]
    assert any((one.place != two.place).any() for one, two in zip(found, reference, strict=True))


def test_an_hour_may_be_a_half_life_or_an_e_folding_time() -> None:
    spec = FeatureSpec()
    hour = {fading: Baselines(spec, fading=fading).view.spec.popularity[1].half_life_ms for fading in FADINGS}
    assert hour == {"half-life": 3_600_000, "e-fold": round(3_600_000 * np.log(2))}


def test_popularity_is_added_to_co_visitation_or_only_fills_up(
    small: Material, targets: Targets, tmp_path: Path
) -> None:
    def places(mixing: Literal["sum", "fill"]) -> dict[str, list[int]]:
        found = Backtest(small, targets, Conditions(mixing=mixing), tmp_path / mixing).go(tasks_of([]))
        assert found is not None
        return {each.name: each.place.tolist() for each in found}

    added, filled = places("sum"), places("fill")
    assert {name for name in added if added[name] != filled[name]} == {"co_visitation"}


# ---- what is judged -------------------------------------------------------------------------------------------------


def rows_of(small: Material, **wanted: object) -> Targets:
    return judged_targets(small.log, small.types, small.fields, Judged(**wanted))  # type: ignore[arg-type]


def test_the_rule_of_sessions_is_that_of_training(small: Material) -> None:
    expected = find_targets(small.log, EventTypes().weight_table())
    found = rows_of(small)
    assert found.row.tolist() == expected.row.tolist()
    assert found.scored.tolist() == expected.scored.tolist()


def test_the_next_event_counts_however_late_and_a_horizon_bounds_it(small: Material) -> None:
    log = small.log
    for rule, horizon_ms in (("next", None), ("horizon", 60_000)):
        found = rows_of(small, rule=rule, horizon_ms=horizon_ms)
        last: dict[int, int] = {}
        session: dict[int, set[int]] = {}
        expected = []
        for row in range(len(log)):
            user, item, ts_ms = int(log.user[row]), int(log.item[row]), int(log.ts_ms[row])
            if user not in last or ts_ms - log.ts_ms[last[user]] > 30 * 60_000:
                session[user] = set()
            soon = user in last and (horizon_ms is None or ts_ms - log.ts_ms[last[user]] <= horizon_ms)
            if soon and item not in session[user]:
                expected.append((row, last[user]))
            last[user] = row
            session[user].add(item)
        assert list(zip(found.row.tolist(), found.scored.tolist(), strict=True)) == expected


def test_filters_leave_what_they_name(small: Material) -> None:
    log, everything = small.log, rows_of(small)
    purchases = rows_of(small, types=("purchase",))
    assert set(purchases.row) == {row for row in everything.row if log.kind[row] == EventTypes().codes()["purchase"]}
    phones = rows_of(small, where=(("device", "1"),))
    frame = table().sort("ts_ms", "user_id", maintain_order=True)
    assert set(phones.row) == {row for row in everything.row if frame["device"][int(row)] == "1"}
    young = rows_of(small, new_users=True)
    assert set(young.row) == {row for row in everything.row if (log.user[:row] == log.user[row]).sum() < 5}
    from_ms = START_MS + 300_000
    fresh = rows_of(small, new_items=True, from_ms=from_ms)
    assert all(log.ts_ms[log.item == log.item[row]].min() >= from_ms for row in fresh.row)


def test_a_sample_is_the_same_each_time_and_about_as_large_as_asked(small: Material) -> None:
    everything, some = rows_of(small), rows_of(small, sample=0.3)
    assert set(some.row) < set(everything.row)
    assert some.row.tolist() == rows_of(small, sample=0.3).row.tolist()
    assert abs(len(some) / len(everything) - 0.3) < 0.05


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"sample": 0.0}, "no share"),
        ({"from_ms": 5, "until_ms": 5}, "range is empty"),
        ({"rule": "horizon"}, "horizon"),
        ({"types": ("wink",)}, "no event type is called 'wink'"),
        ({"where": (("planet", "3"),)}, "no context field 'planet'"),
    ],
)
def test_what_cannot_be_judged_is_refused(small: Material, wanted: dict[str, object], message: str) -> None:
    with pytest.raises(PolytempoError, match=message):
        rows_of(small, **wanted)
