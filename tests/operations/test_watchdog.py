"""The watchdog objects to what is stuck, and to nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import PolytempoError
from stream.operations.watchdog import Progress, Sample, Watchdog, WatchdogConfig

CONFIG = WatchdogConfig(stalled_s=30, silent_s=15, unsettled_s=60, view_s=30, blocked_s=5, steady_s=5)


class Life:
    """A worker's reports, one a second unless said otherwise."""

    def __init__(self) -> None:
        self.watchdog = Watchdog(CONFIG)
        self.sample = Sample(0.0, True, 0, {0: Progress(0, 0, waiting=True, answered=0)}, 0.0)
        self.watchdog.observe(self.sample)

    @property
    def now_s(self) -> float:
        return self.sample.at_s

    def goes_on(
        self, seconds: int, *, progress: int = 0, lag: int = 0, answers: bool = True, **changes: object
    ) -> None:
        """`progress` events finished a second; `lag` left each time; whether the broker answers."""
        for _ in range(seconds):
            each = self.sample.partitions[0]
            answered = (each.answered or 0) + 1 if answers else each.answered
            partition = Progress((each.done or 0) + progress, lag, waiting=lag == 0, answered=answered)
            self.sample = replace(
                self.sample,
                at_s=self.now_s + 1,
                partitions={0: partition},
                **changes,  # type: ignore[arg-type]
            )
            self.watchdog.observe(self.sample)

    def against(self, later_s: float = 0.0) -> list[str]:
        return [each.kind for each in self.watchdog.objections(self.now_s + later_s)]


def test_idle_for_an_hour_is_well() -> None:
    life = Life()
    life.goes_on(3600)
    assert life.against() == []


def test_a_long_queue_that_gets_shorter_or_longer_is_well_as_long_as_events_are_finished() -> None:
    life = Life()
    life.goes_on(300, progress=10, lag=1_000_000)
    assert life.against() == []


def test_events_that_wait_after_an_idle_hour_are_a_stall_only_after_their_own_time() -> None:
    """The clock of a partition without lag stands still, however long that lasts.

    idle 3600 s |-- lag, nothing finished: 30 s well --|-- stalled
    """
    life = Life()
    life.goes_on(3600)
    life.goes_on(30, lag=5)
    assert life.against() == []
    life.goes_on(2, lag=5)
    assert life.against() == ["stalled"]
    assert "5 events wait" in life.watchdog.objections(life.now_s)[0].detail


def test_a_stall_is_taken_back_when_events_have_been_finished_for_some_seconds() -> None:
    life = Life()
    life.goes_on(40, lag=5)
    life.goes_on(4, progress=1, lag=5)
    assert life.against() == ["stalled"]
    life.goes_on(2, progress=1, lag=5)
    assert life.against() == []


def test_one_stalled_partition_among_others_that_go_on_is_named() -> None:
    watchdog = Watchdog(CONFIG)
    for second in range(40):
        well = Progress(second, 3, waiting=False, answered=second)
        stuck = Progress(7, 9, waiting=False, answered=second)
        watchdog.observe(Sample(float(second), True, 0, {0: well, 1: stuck}, 0.0))
    (objection,) = watchdog.objections(39.0)
    assert objection.detail.startswith("partition 1: 9 events")


def test_a_partition_that_is_given_away_is_no_longer_objected_to() -> None:
    life = Life()
    life.goes_on(40, lag=5)
    for second in range(6):
        life.watchdog.observe(replace(life.sample, at_s=life.now_s + 1 + second, partitions={}))
    assert life.watchdog.objections(life.now_s + 6) == ()


def test_a_rebalance_or_recovery_sets_the_clocks_back() -> None:
    """Twenty-nine seconds of waiting, a rebalance, and twenty-nine more: nobody was stuck."""
    life = Life()
    life.goes_on(29, lag=5)
    life.goes_on(10, lag=5, settled=False)
    life.goes_on(29, lag=5, settled=True)
    assert life.against() == []


def test_a_recovery_may_take_hours_if_it_gets_on_and_a_minute_if_it_does_not() -> None:
    life = Life()
    for left in range(7200, 0, -1):
        life.goes_on(1, settled=False, to_recover=left)
    assert life.against() == []
    life.goes_on(61, settled=False, to_recover=1)
    assert life.against() == ["unsettled"]
    life.goes_on(6, settled=True, to_recover=0)
    assert life.against() == []


def test_a_broker_that_does_not_answer_while_nothing_is_known_to_wait() -> None:
    life = Life()
    life.goes_on(100)
    life.goes_on(15, answers=False)
    assert life.against() == []
    life.goes_on(1, answers=False)
    assert life.against() == ["silent"]
    life.goes_on(6)
    assert life.against() == []


def test_fetches_that_are_held_back_because_events_wait_are_no_silence() -> None:
    life = Life()
    life.goes_on(25, lag=5, answers=False)
    assert life.against() == []


def test_a_view_that_is_too_old() -> None:
    life = Life()
    life.goes_on(1, view_age_s=30.0)
    assert life.against() == []
    life.goes_on(1, view_age_s=30.1)
    assert life.against() == ["old-view"]


def test_a_blocked_loop_is_seen_without_its_help_and_remembered_for_a_moment() -> None:
    life = Life()
    assert life.against(later_s=5.0) == []
    assert life.against(later_s=5.1) == ["blocked"]
    life.sample = replace(life.sample, at_s=life.now_s + 20)
    life.watchdog.observe(life.sample)
    assert life.against() == ["blocked"], "it has only just come back"
    life.goes_on(6)
    assert life.against() == []


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=60))
def test_who_always_finishes_something_when_events_wait_is_never_stalled(reports: list[tuple[bool, int, int]]) -> None:
    """Whatever rebalances come between, and however large the lag is."""
    watchdog, done, now_s = Watchdog(CONFIG), 0, 0.0
    for settled, lag, gap_s in reports:
        now_s += gap_s
        done += 1 if lag > 0 else 0
        watchdog.observe(
            Sample(now_s, settled, 0, {0: Progress(done, lag, waiting=lag == 0, answered=int(now_s))}, 0.0)
        )
        assert "stalled" not in {each.kind for each in watchdog.objections(now_s)}


@pytest.mark.parametrize("name", ["stalled_s", "silent_s", "unsettled_s", "view_s", "blocked_s"])
def test_a_threshold_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(PolytempoError, match=name):
        WatchdogConfig(**{name: 0.0})
