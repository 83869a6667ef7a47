"""Item statistics against a recomputation in float64 from all that was counted."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.core.catalogue import ItemUpdate
from stream.core.events import item_key, item_keys, segment_keys
from stream.core.scales import DAY_MS, HOUR_MS, MINUTE_MS
from stream.core.statistics import (
    N_LISTED,
    CoVisitationChannel,
    ItemStatistics,
    PopularityChannel,
    SegmentField,
    StatisticsSpec,
    bring_up,
)
from tests.core.activities import (
    SPEC,
    Entry,
    activity,
    an_entry,
    entry_logs,
    row_of,
    shares,
    sums_of,
    transitions,
)
from tests.core.histories import ITEMS, T0_MS, cuts

NOW_MS = T0_MS + 61 * DAY_MS
"""After every event that is drawn."""
BY_ITEM = ("weight", "log_share", "first_ms", "slot_item", "slot_weight", "row_sum", "row_ms")


def fresh(spec: StatisticsSpec = SPEC) -> ItemStatistics:
    view = ItemStatistics(spec)
    view.know(ITEMS)
    return view


def assert_says(view: ItemStatistics, entries: list[Entry]) -> None:
    """The view holds just what these entries add up to."""
    view.refresh()
    for p, share in enumerate(shares(view.spec, entries)):
        for number, item in enumerate(view.catalogue.ids):
            expected = math.log(share.get(item, 0.0) + 1e-6)
            # Shares below a thousandth of the floor are not told from none, which is 0.001 in the logarithm.
            assert view.log_share[number, p] == pytest.approx(expected, abs=2e-3), (p, item)
    pairs = transitions(view.spec, entries, NOW_MS)
    for item in view.catalogue.ids:
        row = row_of(view, item, NOW_MS)
        assert set(row) == {after for before, after in pairs if before == item}
        for after, weights in row.items():
            np.testing.assert_allclose(weights, pairs[item, after], rtol=1e-4, atol=1e-12)
        total = np.sum([weights for (before, _), weights in pairs.items() if before == item], axis=0)
        np.testing.assert_allclose(sums_of(view, item, NOW_MS), total, rtol=1e-4, atol=1e-12)
    for number, item in enumerate(view.catalogue.ids):
        times = [entry.ts_ms for entry in entries if entry.item == item]
        assert not times or view.first_ms[number] == min(times)


@given(entry_logs())
def test_statistics_equal_a_recomputation_from_all_entries_on_every_prefix(entries: list[Entry]) -> None:
    """
    arrival   10:00   10:07   9:12 (late)   two months on   10:08 (later still)      all at their own time's worth
    """
    view = fresh()
    for offset, entry in enumerate(entries):
        view.apply(activity([entry], offset))
        assert_says(view, entries[: offset + 1])


@given(entry_logs().flatmap(lambda log: st.tuples(st.just(log), cuts(len(log)))))
def test_batch_boundaries_leave_no_trace(drawn: tuple[list[Entry], list[int]]) -> None:
    entries, bounds = drawn
    whole, pieces = fresh(), fresh()
    whole.apply(activity(entries))
    for start, end in itertools.pairwise(bounds):
        pieces.apply(activity(entries[start:end], start))
    for name in (*BY_ITEM[:1], *BY_ITEM[2:], "total", "landmark_ms"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(pieces, name), err_msg=name)


@given(st.lists(entry_logs(8), min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_any_interleaving_of_partitions_gives_the_same_values(logs: list[list[Entry]], chance: Any) -> None:
    """
    one order      p0[0..2] p1[0..4] p0[3..5]          another    p1[0..4] p0[0..2] p0[3..5]
    """
    turns = [partition for partition, log in enumerate(logs) for _ in log]
    chance.shuffle(turns)
    view, done = fresh(), [0] * len(logs)
    for partition in turns:
        offset = done[partition]
        view.apply(activity([logs[partition][offset]], offset, source=f"events/{partition}"))
        done[partition] += 1
    assert_says(view, [entry for log in logs for entry in log])
    assert view.counted == {f"events/{partition}": len(log) for partition, log in enumerate(logs)}


@given(entry_logs(20), st.lists(st.tuples(st.integers(0, 19), st.integers(0, 6)), min_size=1, max_size=12))
def test_each_offset_counts_once_whoever_sends_it_again(entries: list[Entry], ranges: list[tuple[int, int]]) -> None:
    """
    sent      [0..3]   [0..3]   [2..6]   [9..10]    [6..8]         counted    0 1 2 3 . . .  4 5 6   9 10   7 8
                       again    overlap  gap of 2   after all                 n_gaps = 1
    """
    view = fresh()
    due: int | None = None
    counted: list[Entry] = []
    covered = set(range(ranges[0][0]))  # what came before the first message is none of this view's
    n_gaps = 0
    for first, length in ranges:
        part = entries[first : first + length]
        last = first + max(length, 1) - 1  # the range may cover offsets that have no entry
        view.apply(activity(part, first, last=last))
        if due is not None and first > due:
            n_gaps += 1
        counted += [entry for place, entry in enumerate(part) if first + place not in covered]
        covered |= set(range(first, last + 1))
        due = last + 1 if due is None else max(due, last + 1)
        assert view.counted == {"events/0": due}
        assert view.n_gaps == n_gaps
        lacking = [offset for begin, end in view.missing.get("events/0", []) for offset in range(begin, end + 1)]
        assert sorted(lacking) == sorted(set(range(due)) - covered)
    assert_says(view, counted)


@given(entry_logs())
def test_what_speaks_against_an_item_counts_nothing_but_makes_it_known(entries: list[Entry]) -> None:
    view = ItemStatistics(SPEC)
    view.apply(activity([replace(entry, weight=-1.0, previous=()) for entry in entries]))
    assert set(view.catalogue.ids) == {entry.item for entry in entries}
    assert not view.weight.any()
    assert_says(view, [replace(entry, weight=-1.0, previous=()) for entry in entries])


def test_an_item_that_was_never_named_leads_nowhere() -> None:
    """Its message was lost to retention: its key has no number."""
    view = ItemStatistics(SPEC)
    view.apply(activity([Entry("x", 1.0, T0_MS, True, ("unknown",))]))
    assert view.catalogue.ids == ["x"]
    assert (view.slot_item == -1).all()


def test_columns_follow_the_names_of_fields_not_their_order() -> None:
    """A message whose producer knew fewer fields, in another order, counts the rest as missing."""
    entry = Entry("i0", 1.0, T0_MS, True, (), ("phone", "home"), ("desk", "home"))
    straight, turned, fewer = fresh(), fresh(), fresh()
    straight.apply(activity([entry]))
    turned.apply(activity([entry], fields=("page", "device")))
    fewer.apply(activity([entry], fields=("page",)))
    np.testing.assert_array_equal(straight.weight, turned.weight)
    assert_says(fewer, [replace(entry, segments=("", "home"), previous_segments=("", "home"))])


@pytest.mark.parametrize("of", ["next", "any", "back"])
@given(log=entry_logs(15))
def test_a_neighbour_that_no_channel_counts_takes_no_slot(of: Any, log: list[Entry]) -> None:
    spec = replace(SPEC, co_visitation=(CoVisitationChannel(DAY_MS, of),))
    view = fresh(spec)
    view.apply(activity(log))
    assert_says(view, log)


MANY = tuple(f"n{n}" for n in range(6))


@given(st.lists(an_entry(MANY), min_size=12, max_size=60))
def test_a_full_row_gives_up_its_weakest_neighbour_and_no_other(entries: list[Entry]) -> None:
    """
    slots   a 2.0   b 0.3      d comes      a 2.0   d 1.0
                    ^ weakest as of d's time
    """
    spec = replace(SPEC, n_slots=2, co_visitation=SPEC.co_visitation[:3])
    view = ItemStatistics(spec)
    view.know(MANY)
    for offset, entry in enumerate(entries):
        before = {}
        for item in entry.previous:
            # Strengths as the row weighs them: at the later of its own time and the event's.
            row_ms = int(view.row_ms[view.catalogue.index.lookup(item_keys([item]))[0]])
            before[item] = row_of(view, item, max(row_ms, entry.ts_ms))
        view.apply(activity([entry], offset))
        for item in entry.previous:
            after = row_of(view, item, NOW_MS)
            assert len(after) <= 2
            gone = set(before[item]) - set(after)
            if entry.weight <= 0 or entry.item in before[item] or len(before[item]) < 2:
                assert not gone
                continue
            (victim,) = gone
            strength = {name: float(weights.sum()) for name, weights in before[item].items()}
            assert strength[victim] <= min(strength.values()) * (1 + 1e-5) + 1e-12
    for item in MANY:
        total = np.sum(
            [w for (b, _), w in transitions(spec, entries, NOW_MS).items() if b == item] or [[0.0] * 3], axis=0
        )
        np.testing.assert_allclose(sums_of(view, item, NOW_MS), total, rtol=1e-4, atol=1e-12)


@given(entry_logs(30), st.sets(st.sampled_from(ITEMS)))
def test_lists_hold_the_available_items_by_weight_then_key(entries: list[Entry], sold_out: set[str]) -> None:
    view = fresh()
    view.apply(activity(entries))
    view.update_items([ItemUpdate(item, available=item not in sold_out) for item in ITEMS])
    view.refresh()
    for p in range(len(view.listed)):
        weight = {item: float(view.weight[number, p]) for number, item in enumerate(view.catalogue.ids)}
        expected = sorted(
            (item for item in ITEMS if weight[item] > 0 and item not in sold_out),
            key=lambda item: (-weight[item], item_key(item)),
        )
        got = [view.catalogue.ids[number] for number in view.listed[p] if number >= 0]
        assert got == expected
        assert (view.listed[p][len(got) :] == -1).all()


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_a_view_that_moves_on_is_the_view_made_anew(seed: int, restocked: bool) -> None:
    """Steps of seconds to hours, over moves of landmarks, items within and beyond full lists, some of them sold out."""
    rng = np.random.default_rng(seed)
    ids = [f"item{n}" for n in range(2 * N_LISTED)]
    moving, at_ms = ItemStatistics(SPEC), T0_MS
    for step in range(12):
        at_ms += int(10.0 ** rng.uniform(3, 7.3))
        some = rng.choice(ids, int(10.0 ** rng.uniform(0, 2.3)))
        entries = [
            Entry(str(item), float(rng.integers(-1, 3)), at_ms + 7 * n, n % 2 == 0) for n, item in enumerate(some)
        ]
        updates = [ItemUpdate(ids[step], available=step % 2 == 0)] if restocked and step % 4 == 3 else []
        moving.advance([(step, activity(entries, 1000 * step))], updates)
        anew = ItemStatistics.restore(SPEC, moving.snapshot())
        np.testing.assert_array_equal(moving.listed, anew.listed)
        np.testing.assert_array_equal(moving.newest, anew.newest)
        for number in rng.integers(0, len(moving.catalogue), 20).tolist():
            bring_up(number, moving.weight, moving.total, moving.log_share, moving.current, moving.generation)
            np.testing.assert_array_equal(moving.log_share[number], anew.log_share[number])


@pytest.mark.parametrize("n_counts", [1, 30])
def test_a_view_may_move_on_after_any_number_of_counts(n_counts: int) -> None:
    """A recovery counts a whole topic before anybody looks: no note is taken of each of its events."""
    view = ItemStatistics(SPEC)
    view.refresh()
    for step in range(n_counts):
        log = [Entry(MANY[(step + n * n) % len(MANY)], 1.0, T0_MS + n, True) for n in range(100)]
        view.apply(activity(log, 1000 * step))
    view.renew()
    anew = ItemStatistics.restore(SPEC, view.snapshot())
    np.testing.assert_array_equal(view.listed, anew.listed)
    assert sum(map(len, view._touched)) == 0


@pytest.mark.parametrize("weakest", range(4))
def test_whichever_neighbour_is_weakest_makes_room(weakest: int) -> None:
    """
    weights   3  1  3  3      a fifth neighbour takes the place of the 1
    """
    view = ItemStatistics(replace(SPEC, n_slots=4))
    view.know(MANY)
    log = [Entry(MANY[n], 1.0 if n == 1 + weakest else 3.0, T0_MS, True, (MANY[0],)) for n in range(1, 5)]
    view.apply(activity([*log, Entry(MANY[5], 1.0, T0_MS + MINUTE_MS, True, (MANY[0],))]))
    assert set(row_of(view, MANY[0], NOW_MS)) == set(MANY[1:]) - {MANY[1 + weakest]}


def test_long_lists_are_cut_and_ties_go_by_key() -> None:
    ids = [f"item{n}" for n in range(3 * N_LISTED)]
    view = ItemStatistics(SPEC)
    view.apply(activity([Entry(item, 1.0 + (n % 3 == 0), T0_MS) for n, item in enumerate(ids)]))
    view.refresh()
    got = [view.catalogue.ids[number] for number in view.listed[0]]
    assert got == sorted(ids, key=lambda item: (int(item[4:]) % 3 != 0, item_key(item)))[:N_LISTED]


@given(
    st.integers(0, 400),
    st.lists(st.tuples(st.integers(0, 399), st.one_of(st.none(), st.integers(0, 3)), st.booleans()), max_size=400),
    st.randoms(use_true_random=False),
)
def test_the_newest_items_do_not_depend_on_numbers(n: int, drawn: list[tuple[int, Any, bool]], chance: Any) -> None:
    """Many items of one time of publication, as after an import: the key decides among them."""
    said = {f"item{k}": ItemUpdate(f"item{k}", published_ms=1000) for k in range(n)}
    said |= {f"item{k}": ItemUpdate(f"item{k}", available=a, published_ms=ms) for k, ms, a in drawn}
    order = list(said.values())
    chance.shuffle(order)
    view = ItemStatistics(SPEC)
    view.update_items(order)
    view.refresh()
    dated = [update for update in order if update.available and update.published_ms is not None]
    expected = [u.item_id for u in sorted(dated, key=lambda u: (-(u.published_ms or 0), item_key(u.item_id)))]
    got = [view.catalogue.ids[number] for number in view.newest if number >= 0]
    assert got == expected[:N_LISTED]


def test_silence_changes_no_share_and_halves_transitions_each_half_life() -> None:
    """Shares decay alike, so nothing needs a timer."""
    view = fresh()
    view.apply(activity([Entry("i0", 1.0, T0_MS), Entry("i1", 3.0, T0_MS, True, ("i0",))]))
    view.refresh()
    assert view.log_share[0, 0] == pytest.approx(math.log(0.25 + 1e-6))
    now, later = row_of(view, "i0", T0_MS)["i1"], row_of(view, "i0", T0_MS + DAY_MS)["i1"]
    np.testing.assert_allclose(now, [3.0, 3.0, 3.0, 0.0, 3.0, 0.0, 0.0])
    np.testing.assert_allclose(later, [1.5, 3.0 / 2**24, 1.5, 0.0, 3.0 / 2**24, 0.0, 0.0])


def test_one_event_of_the_far_future_silences_all_others_until_that_time() -> None:
    """Why the wire refuses events far ahead of their record's time: the statistics believe event time."""
    view = fresh()
    view.apply(activity([Entry("i0", 1.0, T0_MS), Entry("i1", 1.0, T0_MS + 400 * DAY_MS)]))
    view.apply(activity([Entry("i0", 1.0, T0_MS + n * MINUTE_MS) for n in range(100)], 2))
    view.refresh()
    assert view.log_share[0, 0] == pytest.approx(math.log(1e-6))
    assert view.log_share[1, 0] == pytest.approx(0.0, abs=1e-5)
    assert np.isfinite(view.weight).all()


def test_a_long_stream_stays_finite_and_exact_over_many_moves_of_the_landmark() -> None:
    """A thousand half-lives of five minutes, an event every minute."""
    view = fresh()
    entries = [Entry(ITEMS[n % 3], 1.0, T0_MS + n * MINUTE_MS) for n in range(5000)]
    for start in range(0, 5000, 100):
        view.apply(activity(entries[start : start + 100], start))
    assert (view.landmark_ms[0] - T0_MS) / (5 * MINUTE_MS) > 900
    assert_says(view, entries)


@given(
    st.lists(
        st.tuples(entry_logs(6), st.integers(0, 12), st.sampled_from(["events/0", "events/1"])), min_size=1, max_size=8
    )
)
def test_many_messages_at_once_count_as_one_by_one(drawn: list[tuple[list[Entry], int, str]]) -> None:
    """Gaps, repeats, late ones, and neighbours that only a later message makes known: not a bit differs."""
    batches = [activity(part, first, source=source, last=first + 5) for part, first, source in drawn]
    together, singly = ItemStatistics(SPEC), ItemStatistics(SPEC)
    together.apply_all(batches)
    for batch in batches:
        singly.apply(batch)
    one, other = together.snapshot(), singly.snapshot()
    assert one.keys() == other.keys()
    for name, column in one.items():
        np.testing.assert_array_equal(column, other[name], err_msg=name)


@given(entry_logs(20), entry_logs(10), st.lists(st.sampled_from(ITEMS), max_size=3))
def test_a_snapshot_is_the_view_and_goes_on_like_it(first: list[Entry], more: list[Entry], named: list[str]) -> None:
    view = fresh()
    updates = [ItemUpdate(item, "hats", f"T{item}", available=False, published_ms=5) for item in named]
    view.advance([(41, activity(first)), (42, activity([], len(first) + 5, last=len(first) + 9))], updates)
    view.items_offset = 7
    again = ItemStatistics.restore(SPEC, view.snapshot())
    for step in range(2):
        n_items = len(view.catalogue)
        for each in (view, again):
            for number in range(n_items):
                bring_up(number, each.weight, each.total, each.log_share, each.current, each.generation)
        for name in BY_ITEM:
            np.testing.assert_array_equal(getattr(again, name)[:n_items], getattr(view, name)[:n_items], err_msg=name)
        for name in ("total", "landmark_ms", "listed", "newest"):
            np.testing.assert_array_equal(getattr(again, name), getattr(view, name), err_msg=name)
        for name in ("key", "available", "category", "published_ms"):
            np.testing.assert_array_equal(
                getattr(again.catalogue, name)[:n_items], getattr(view.catalogue, name)[:n_items], err_msg=name
            )
        for name in ("ids", "titles", "categories"):
            assert getattr(again.catalogue, name) == getattr(view.catalogue, name)
        assert (again.offset, again.items_offset, again.counted, again.n_gaps, again.missing) == (
            view.offset,
            view.items_offset,
            view.counted,
            view.n_gaps,
            view.missing,
        )
        if step == 0:
            for each in (view, again):
                each.advance([(43, activity(more, len(first) + 10))], [ItemUpdate("late", "shoes")])


def test_a_snapshot_of_other_statistics_is_refused() -> None:
    arrays = fresh().snapshot()
    with pytest.raises(ValueError, match="other statistics"):
        ItemStatistics.restore(replace(SPEC, n_slots=31), arrays)
    with pytest.raises(ValueError, match="other statistics"):
        ItemStatistics.restore(replace(SPEC, popularity=SPEC.popularity[:4]), arrays)


@pytest.mark.parametrize("name", sorted(fresh().snapshot()))
def test_a_damaged_snapshot_is_refused(name: str) -> None:
    view = fresh()
    view.apply(activity([Entry("i1", 1.0, T0_MS, True, ("i0",))]))
    arrays = view.snapshot()
    without = {key: array for key, array in arrays.items() if key != name}
    with pytest.raises(ValueError, match=r"not a snapshot .*" + name):
        ItemStatistics.restore(SPEC, without)
    with pytest.raises(ValueError):  # noqa: PT011 - what it says depends on the array
        ItemStatistics.restore(SPEC, {**arrays, name: arrays[name][:1]})


def test_a_snapshot_whose_neighbours_are_no_items_is_refused() -> None:
    """Reading such a row would reach outside the arrays."""
    arrays = fresh().snapshot()
    arrays["slot_item"][0, 0] = 10_000
    with pytest.raises(ValueError, match="none of its 5 items"):
        ItemStatistics.restore(SPEC, arrays)


@given(st.lists(st.sampled_from(("", "phone", "desk", "tv", "home")), max_size=6))
def test_segments_have_codes_and_all_others_are_zero(texts: list[str]) -> None:
    view = ItemStatistics(SPEC)
    keys = np.stack([segment_keys(texts), segment_keys(texts)], axis=1)
    codes = view.segment_codes(keys)
    assert codes[:, 0].tolist() == [{"phone": 1, "desk": 2}.get(text, 0) for text in texts]
    assert codes[:, 1].tolist() == [{"home": 1}.get(text, 0) for text in texts]


def test_impossible_specifications_are_refused() -> None:
    with pytest.raises(ValueError, match="half-life"):
        PopularityChannel(0)
    with pytest.raises(ValueError, match="needs the segment"):
        PopularityChannel(HOUR_MS, "previous")
    with pytest.raises(ValueError, match="needs that field"):
        StatisticsSpec(popularity=(PopularityChannel(HOUR_MS, "all", "device"),))
    with pytest.raises(ValueError, match="needs that field"):
        StatisticsSpec(co_visitation=(CoVisitationChannel(HOUR_MS, "next", "device"),))
    with pytest.raises(ValueError, match="n_slots"):
        StatisticsSpec(n_slots=0)
    with pytest.raises(ValueError, match="at least one"):
        StatisticsSpec(co_visitation=())
    with pytest.raises(ValueError, match="repeat"):
        StatisticsSpec(segments=(SegmentField("a", ()), SegmentField("a", ())))
    with pytest.raises(ValueError, match="repeat, or one is empty"):
        SegmentField("a", ("x", "x"))
    with pytest.raises(ValueError, match="repeat, or one is empty"):
        SegmentField("a", ("x", ""))


@pytest.mark.parametrize(("n_slots", "n_bytes"), [(32, 756), (64, 1396), (128, 2676), (256, 5236)])
def test_an_item_takes_the_published_memory(n_slots: int, n_bytes: int) -> None:
    """At the default channels; the README's table."""
    view = ItemStatistics(StatisticsSpec(n_slots=n_slots))
    view.know(["x"])
    assert view.n_bytes_per_item == n_bytes
