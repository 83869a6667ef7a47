"""One step of the worker, without Kafka: JSON records in, everything to deliver and to store out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.bundle.load import load_bundle
from stream.bundle.service import Arm
from stream.core.activity import ActivityBatch, concatenated
from stream.core.assignment import Assignment
from stream.core.catalogue import ItemUpdate
from stream.core.exploration import Exploration
from stream.core.seam import Policy
from stream.core.state import decode_states
from stream.core.statistics import ItemStatistics
from stream.wire.activity import encode_activity
from stream.wire.encode import rec_id
from stream.wire.reasons import Record
from stream.worker.app import MAX_BATCH
from stream.worker.processor import Counters, Fetched, Output, Processor
from tests.wire.malformed import KINDS, REASON_OF, make
from tests.wire.records import FakeRecord
from tests.worker.bundles import bundle
from tests.worker.plain import FEATURES, VOCABULARY, PlainBundle, PlainRecurrent

START_MS = 1_700_000_000_000
MINUTE_MS = 60_000
TOPIC = "events"


@dataclass
class Desk:
    """A processor with the states that it has stored and the view that it reads."""

    bundle: PlainBundle = field(default_factory=PlainBundle)
    policy: Policy = field(default_factory=lambda: Policy(5))
    states: dict[bytes, bytes] = field(default_factory=dict)
    view: ItemStatistics = field(default_factory=lambda: ItemStatistics(FEATURES.statistics))
    due: int = 0
    counters: Counters = field(default_factory=Counters)

    def __post_init__(self) -> None:
        arms = [Arm("default", self.bundle, self.policy)]
        self.processor = Processor(arms, self.view, counters=self.counters)

    def answer(self, records: Sequence[Record], covers: tuple[int, int] | None = None) -> Output:
        """Process, and store what is to be stored; the view stays as it is."""
        last = records[-1].offset
        output = self.processor.process(
            records,
            lambda keys: [self.states.get(key) for key in keys],
            topic=TOPIC,
            partition=3,
            covers=(records[0].offset, last) if covers is None else covers,
        )
        for key, value in output.writes.items():
            if value is None:
                self.states.pop(key, None)
            else:
                self.states[key] = value
        return output

    def count(self, output: Output, offset: int = 0) -> None:
        """Move the view on by what a step sent."""
        if output.activity is not None:
            self.view.advance([(offset, output.activity)])

    def ask(self, *events: dict[str, Any]) -> list[dict[str, Any]]:
        """Answer events with the next offsets, the view moving on behind them; what is recommended."""
        records = [record(self.due + row, event) for row, event in enumerate(events)]
        self.due += len(records)
        output = self.answer(records)
        self.count(output, self.due)
        return said(output)


def event(user: str, item: str | None, minute: float = 0, kind: str = "click", **more: Any) -> dict[str, Any]:
    """An event `minute` minutes after the start."""
    fields_ = {"user_id": user, "event_type": kind, "ts_ms": START_MS + round(minute * MINUTE_MS), **more}
    return fields_ if item is None else {**fields_, "item_id": item}


def record(offset: int, fields_: dict[str, Any]) -> FakeRecord:
    """The record of an event."""
    return FakeRecord(fields_["user_id"].encode(), json.dumps(fields_).encode(), offset, START_MS + 10**9)


def said(output: Output) -> list[dict[str, Any]]:
    """The recommendations as their consumers read them."""
    return [json.loads(value or b"") for _, value in output.recommendations]


def items_of(recommendation: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in recommendation["items"]]


def a_busy_hour(n_events: int = 400, seed: int = 0) -> list[FakeRecord]:
    """Users with clicks, purchases, dislikes, late events, duplicates, requests, forgets, and a few broken records."""
    rng = Random(seed)
    records: list[FakeRecord] = []
    for offset in range(n_events):
        user, minute = f"user-{rng.randrange(25)}", offset / 6 - 60 * (rng.random() < 0.03)
        chance = rng.random()
        if chance < 0.03:
            kind = rng.choice([kind for kind in KINDS if "1 MB" not in kind and "without end" not in kind])
            key, value = make(kind, rng, START_MS + 10**9)
            records.append(FakeRecord(key, value, offset, START_MS + 10**9))
            continue
        if chance < 0.06:
            sent = event(user, None, minute, "request", exclude=[f"item-{rng.randrange(40)}"], n=rng.randrange(1, 9))
        elif chance < 0.07:
            sent = event(user, None, minute, "forget")
        else:
            kind = rng.choices(["view", "click", "purchase", "dislike", "return"], [4, 8, 2, 1, 1])[0]
            sent = event(user, f"item-{int(rng.paretovariate(0.7)) % 40}", minute, kind, value=rng.uniform(0, 30))
            sent["context"] = {"device": rng.choice(["phone", "desk", "fridge"])}
            if chance < 0.5:
                sent["event_id"] = f"e-{offset - rng.randrange(12)}"  # now and then one that its user sent before
        records.append(record(offset, sent))
    return records


def warm_view(n_events: int = 600) -> ItemStatistics:
    """A view that has something to recommend."""
    desk = Desk()
    desk.count(desk.answer(a_busy_hour(n_events, seed=1)))
    desk.view.offset = 17
    return desk.view


@pytest.fixture(scope="module")
def view() -> ItemStatistics:
    """One view that all steps of a test read; none moves it on."""
    return warm_view()


# -- what an event leads to --------------------------------------------------------------------------------------------


def test_an_event_leads_to_a_recommendation_a_state_and_activity(view: ItemStatistics) -> None:
    """The recommendation names where it came from, the state is filed under the user, and the item is counted."""
    desk = Desk(view=view)
    sent = event("ann", "item-3", event_id="e1", context={"device": "phone"})
    output = desk.answer([record(40, sent)], covers=(38, 40))
    (key, _), (recommendation,) = output.recommendations[0], said(output)
    assert key == b"ann"
    assert recommendation["rec_id"] == rec_id(TOPIC, 3, 40)
    assert recommendation["source"] == {"topic": TOPIC, "partition": 3, "offset": 40}
    assert recommendation["user_id"] == "ann"
    assert recommendation["event_id"] == "e1"
    assert recommendation["ts_ms"] == sent["ts_ms"]
    assert recommendation["model"] == "plain@1"
    assert recommendation["activity_offset"] == 17
    assert len(items_of(recommendation)) == 5
    assert "item-3" not in items_of(recommendation)
    assert all(item["reasons"] for item in recommendation["items"])
    assert list(output.writes) == [b"ann"]
    assert output.activity is not None
    activity = output.activity
    assert (activity.source, activity.first, activity.last) == ("events/3", 38, 40)
    assert activity.item_ids == ["item-3"]


def test_a_user_of_whom_nothing_is_known_gets_what_is_popular() -> None:
    """And where nothing is popular yet, an empty recommendation: still one for the event."""
    desk = Desk()
    (first,) = desk.ask(event("new", "item-1"))
    assert items_of(first) == []
    desk.ask(event("other", "item-2", 1), event("other", "item-3", 2))
    (later,) = desk.ask(event("newer", "item-1", 3))
    assert set(items_of(later)) == {"item-2", "item-3"}


def test_a_recommendation_may_have_fewer_items_than_asked_for() -> None:
    """There is no padding in the message, and every user of a batch has as many as there are."""
    desk = Desk()
    desk.ask(*(event("ann", f"item-{number}", number) for number in range(4)))
    mine, others = desk.ask(event("ann", "item-1", 5), event("bob", "item-1", 5))
    assert items_of(mine) == []  # all of it was in her session
    assert set(items_of(others)) == {"item-0", "item-2", "item-3"}
    assert all(np.isfinite(item["score"]) for item in others["items"])


def test_a_disliked_item_is_not_recommended_and_not_counted_for() -> None:
    """A negative event blocks the item for its user; it adds nothing to the item's popularity."""
    desk = Desk()
    desk.ask(event("ann", "item-1"), event("ann", "item-2", 1))
    before = desk.view.weight.copy()
    (told,) = desk.ask(event("bob", "item-2", 2, "dislike"))
    assert items_of(told) == ["item-1"]
    np.testing.assert_array_equal(desk.view.weight, before)


# -- replays, duplicates, forgetting -----------------------------------------------------------------------------------


def test_replays_lead_to_nothing_at_all() -> None:
    """A batch that was applied before is read again after a crash: it is neither counted nor stored nor answered."""
    desk = Desk()
    records = [each for each in a_busy_hour(60) if b"forget" not in (each.value or b"")]
    records = [each for each in records if b'"request"' not in (each.value or b"") and b"event_id" not in each.value]  # type: ignore[operator]
    first = desk.answer(records)
    stored = dict(desk.states)
    again = desk.answer(records)
    assert len(first.recommendations) > 0
    assert again.recommendations == []
    assert again.activity is None
    assert again.writes == {}
    assert again.dead_letters == first.dead_letters
    assert desk.states == stored
    assert desk.counters.n_replayed == len(first.recommendations)


def test_what_was_answered_but_not_stored_is_answered_again_in_the_same_words(view: ItemStatistics) -> None:
    """Killed between delivery and changelog: the copies are equal, so consumers may drop either."""
    records = a_busy_hour(80)
    first, again = Desk(view=view).answer(records), Desk(view=view).answer(records)
    assert first.recommendations == again.recommendations
    assert counted(first) == counted(again)
    assert first.writes == again.writes


def test_a_producers_duplicate_is_answered_but_not_counted() -> None:
    """The same event_id twice: two records on the topic, so two recommendations, but one event."""
    desk = Desk()
    sent = event("ann", "item-1", event_id="once")
    desk.ask(sent)
    weight, stored = desk.view.weight.copy(), dict(desk.states)
    (copy,) = desk.ask(sent)
    assert copy["event_id"] == "once"
    assert copy["source"]["offset"] == 1
    assert desk.states == stored
    np.testing.assert_array_equal(desk.view.weight, weight)
    assert desk.counters.n_duplicates == 1


def test_forget_deletes_the_state_and_the_user_begins_anew() -> None:
    """Its own record is a tombstone; what follows is answered as to somebody who has never been here."""
    desk = Desk()
    desk.ask(event("bob", "item-1"), event("bob", "item-2", 1), event("ann", "item-1", 1))
    assert b"ann" in desk.states
    output = desk.answer([record(3, event("ann", None, 2, "forget"))])
    assert output.writes == {b"ann": None}
    assert output.recommendations == []
    assert output.activity is None
    output = desk.answer([record(4, event("ann", "item-2", 3)), record(5, event("new", "item-2", 3))])
    ann, new = said(output)
    assert ann["items"] == new["items"]
    state = decode_states(desk.processor.state_spec, [desk.states[b"ann"]])
    assert state["n_events"][0] == 1


def test_forget_and_return_within_one_batch_leaves_only_what_came_after() -> None:
    """ann:  item-1  forget  item-2"""
    desk = Desk()
    desk.ask(event("ann", "item-1"), event("ann", None, 1, "forget"), event("ann", "item-2", 2))
    state = decode_states(desk.processor.state_spec, [desk.states[b"ann"]])
    assert state["n_events"][0] == 1


# -- requests ----------------------------------------------------------------------------------------------------------


def test_a_request_is_answered_as_it_asks_and_changes_nothing() -> None:
    """n, exclude and only are obeyed; nothing is stored or counted."""
    desk = Desk()
    desk.ask(*(event(f"u{number % 3}", f"item-{number}", number) for number in range(20)))
    stored, weight = dict(desk.states), desk.view.weight.copy()
    three, fewer, among, nothing, default = desk.ask(
        event("ann", None, 21, "request", n=3),
        event("ann", None, 21, "request", exclude=["item-3", "item-4", "no such item"]),
        event("ann", None, 21, "request", only=["item-4", "item-7", "no such item"]),
        event("ann", None, 21, "request", only=[]),
        event("ann", None, 21, "request"),
    )
    assert len(items_of(three)) == 3
    assert items_of(three) == items_of(default)[:3]
    assert len(items_of(default)) == 5
    assert {"item-3", "item-4"}.isdisjoint(items_of(fewer))
    assert {"item-3", "item-4"} & set(items_of(default))
    assert set(items_of(among)) == {"item-4", "item-7"}
    assert items_of(nothing) == []
    assert desk.states == stored
    np.testing.assert_array_equal(desk.view.weight, weight)


def test_a_request_for_more_than_the_policy_gives_gets_more() -> None:
    """Beside it, others of the batch get what the policy says."""
    desk = Desk()
    desk.ask(*(event(f"u{number % 3}", f"item-{number}", number / 9) for number in range(30)))
    many, usual = desk.ask(event("ann", None, 4, "request", n=20), event("bob", "item-5", 4))
    assert len(items_of(many)) == 20
    assert len(items_of(usual)) == 5


# -- batches -----------------------------------------------------------------------------------------------------------


@given(cuts=st.sets(st.integers(1, 299)), recurrent=st.booleans())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_how_events_fall_into_batches_changes_nothing(view: ItemStatistics, cuts: set[int], recurrent: bool) -> None:
    """Same recommendations, dead letters, states and activity, to the byte, whatever the cuts."""
    records = a_busy_hour(300)
    bundle = PlainBundle(PlainRecurrent(), vocabulary=VOCABULARY) if recurrent else PlainBundle()
    whole, parted = Desk(bundle, view=view), Desk(bundle, view=view)
    expected = whole.answer(records)
    edges = [0, *sorted(cuts), len(records)]
    outputs = [parted.answer(records[a:b]) for a, b in pairwise(edges)]
    assert [pair for output in outputs for pair in output.recommendations] == expected.recommendations
    assert [pair for output in outputs for pair in output.dead_letters] == expected.dead_letters
    assert parted.states == whole.states
    assert expected.activity is not None
    activities = [output.activity for output in outputs if output.activity is not None]
    assert_same_entries(activities, expected.activity)


def counted(output: Output) -> bytes | None:
    """What is counted, as a message."""
    return None if output.activity is None else encode_activity(output.activity)


def assert_same_entries(parts: list[ActivityBatch], whole: ActivityBatch) -> None:
    """The entries of activities put together, whatever ranges they cover."""
    joined = concatenated(
        [
            replace(part, first=first, last=last)
            for part, first, last in zip(
                parts,
                [whole.first, *(part.first for part in parts[1:])],
                [*(part.first - 1 for part in parts[1:]), whole.last],
                strict=True,
            )
        ]
    )
    assert joined.item_ids == whole.item_ids
    for name in ("offset", "item", "kind", "weight", "ts_ms", "continues", "previous", "segments", "previous_segments"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name), err_msg=name)


# -- what cannot be used -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_malformed_record_is_a_dead_letter_with_its_reason(kind: str) -> None:
    """Its neighbours are answered; the letter is filed under where the record was."""
    desk = Desk()
    key, value = make(kind, Random(1), START_MS)
    bad = FakeRecord(key, value, 1, START_MS)
    output = desk.answer([record(0, event("ann", "item-1")), bad, record(2, event("ann", "item-2", 1))])
    assert [each["source"]["offset"] for each in said(output)] == [0, 2]
    ((where, letter),) = output.dead_letters
    assert where == b"events/3/1"
    told = json.loads(letter or b"")
    assert told["reason"] == REASON_OF[kind].value
    assert (told["topic"], told["partition"], told["offset"]) == (TOPIC, 3, 1)
    assert told["detail"]
    assert len(letter or b"") < 250_000
    assert desk.counters.dead_letters == {REASON_OF[kind].value: 1}


def test_a_batch_of_nothing_but_malformed_records_leads_to_dead_letters_alone() -> None:
    """No state is loaded, nothing is counted."""
    desk = Desk()
    records = [FakeRecord(*make(kind, Random(2), START_MS), offset, START_MS) for offset, kind in enumerate(KINDS)]
    output = desk.answer(records)
    assert len(output.dead_letters) == len(KINDS) >= 20
    assert (output.recommendations, output.activity, output.writes) == ([], None, {})


def test_the_largest_batch_of_the_longest_ids_fits_into_one_activity_message() -> None:
    """Kafka takes records of at most 1 MiB; beyond it a worker would end at the same batch again and again."""
    desk = Desk()
    ids = [chr(0x1F300 + number % 200) * 250 + f"{number:06}" for number in range(MAX_BATCH)]
    output = desk.answer([record(n, event(f"user-{n}", item_id, n)) for n, item_id in enumerate(ids)])
    assert output.dead_letters == []
    assert output.activity is not None
    assert len(counted(output) or b"") < 0.9 * 2**20


# -- items -------------------------------------------------------------------------------------------------------------


def test_an_item_that_is_not_available_is_not_recommended() -> None:
    """Not as a candidate, not to fill up, and not on request; when it is available again it comes back."""
    desk = Desk()
    desk.ask(event("ann", "item-1"), event("ann", "item-2", 1), event("bob", "item-1", 1), event("bob", "item-2", 2))
    desk.view.advance([], [ItemUpdate("item-2", available=False)])
    by_event, asked = desk.ask(event("cy", "item-1", 3), event("cy", None, 3, "request", only=["item-2"]))
    assert items_of(by_event) == []
    assert items_of(asked) == []
    desk.view.advance([], [ItemUpdate("item-2")])
    (back,) = desk.ask(event("di", "item-1", 4))
    assert items_of(back) == ["item-2"]


# -- policies and bundles ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "blocked"), [("none", set()), ("session", {"item-3"}), ("history", {"item-1", "item-2", "item-3"})]
)
def test_the_policy_says_what_of_the_past_is_recommended_again(seen: str, blocked: set[str]) -> None:
    """ann:  item-1 item-2 | an hour | item-3"""
    desk = Desk(policy=Policy(3, seen))
    desk.ask(*(event("bob", f"item-{number}", number / 10) for number in (1, 2, 3)))
    recommended = desk.ask(event("ann", "item-1", 1), event("ann", "item-2", 2), event("ann", "item-3", 70))[-1]
    assert set(items_of(recommended)) == {"item-1", "item-2", "item-3"} - blocked


def test_recurrent_state_is_carried_in_the_record_and_tagged() -> None:
    """state after item-1 item-2 = (v1 / 2 + v2) in float16 steps"""
    scorer = PlainRecurrent()
    desk = Desk(PlainBundle(scorer, vocabulary=VOCABULARY, tag=77))
    first, second = desk.ask(event("ann", "item-1"), event("ann", "item-2", 1))
    assert len(items_of(first)) == len(items_of(second)) == 5
    assert second["items"][0]["reasons"] == ["model"]
    state = decode_states(desk.processor.state_spec, [desk.states[b"ann"]])
    assert state["model_tag"][0] == 77
    kept = scorer.vectors[2].astype(np.float16).astype(np.float32) * np.float32(0.5) + scorer.vectors[3]
    np.testing.assert_array_equal(state["model"][0], kept.astype(np.float16))


def test_recurrent_state_of_another_bundle_is_rebuilt_from_the_ring() -> None:
    """After the exchange, users get what they would have got had the new bundle served all along."""
    old = PlainBundle(PlainRecurrent(1), vocabulary=VOCABULARY, reference="old@1", tag=1)
    new = PlainBundle(PlainRecurrent(2), vocabulary=VOCABULARY, reference="new@2", tag=2)
    before = [event("ann", f"item-{number}", minute) for minute, number in enumerate((3, 1, 4, 1, 5))]
    last = event("ann", "item-9", 7)
    always = Desk(new)
    expected = always.ask(*before, last)[-1]
    desk = Desk(old)
    desk.ask(*before)
    changed = Desk(new, states=desk.states, view=desk.view, due=desk.due)
    (found,) = changed.ask(last)
    assert found["model"] == "new@2"
    assert items_of(found) == items_of(expected)
    assert changed.states == always.states


def test_a_bundle_without_memory_takes_over_from_one_with_and_back() -> None:
    """Records change their layout; nothing that is not the model's is lost."""
    recurrent = PlainBundle(PlainRecurrent(), vocabulary=VOCABULARY, tag=5)
    desk = Desk(recurrent)
    desk.ask(event("ann", "item-1"), event("ann", "item-2", 1))
    ranker = Desk(PlainBundle(), states=desk.states, view=desk.view, due=2)
    ranker.ask(event("ann", "item-3", 2))
    back = Desk(recurrent, states=ranker.states, view=ranker.view, due=3)
    back.ask(event("ann", "item-4", 3))
    always = Desk(recurrent)
    always.ask(*(event("ann", f"item-{number}", number - 1) for number in (1, 2, 3, 4)))
    assert back.states == always.states


def both(weights: dict[str, float], view: ItemStatistics) -> Processor:
    """Variants `plain` and `drawn`, the second one exploring with a recurrent model."""
    recurrent = PlainBundle(PlainRecurrent(), vocabulary=VOCABULARY, reference="recurrent@1", tag=5)
    arms = [
        Arm("plain", PlainBundle(), Policy(5)),
        Arm("drawn", recurrent, Policy(5, exploration=Exploration(first=3, pool=8, salt="s"))),
    ]
    return Processor(arms, view, assignment=Assignment("x", weights))


def test_variants_share_everything_but_the_answer(view: ItemStatistics) -> None:
    """One activity message, records as wide as the widest, each recommendation with its variant and model."""
    assignment = Assignment("x", {"plain": 1, "drawn": 1})
    processor, alone = both({"plain": 1, "drawn": 1}, view), Desk(view=view)
    states: dict[bytes, bytes | None] = {}
    records, answers, n_counted = a_busy_hour(), [], []
    for cut in (records[:150], records[150:151], records[151:]):
        for which in (0, 1):
            covers = (cut[0].offset, cut[-1].offset)
            if which == 0:
                output = processor.process(
                    cut, lambda keys: [states.get(key) for key in keys], topic=TOPIC, partition=3, covers=covers
                )
                states.update(output.writes)
                answers += said(output)
            else:
                output = alone.answer(cut)
            n_counted.append(counted(output))
    assert n_counted[::2] == n_counted[1::2], "what is counted does not depend on who answers"
    assert {len(raw) for raw in states.values() if raw is not None} == {processor.state_spec.n_bytes}
    models = {"plain": "plain@1", "drawn": "recurrent@1"}
    assert [answer["source"]["offset"] for answer in answers] == sorted(
        answer["source"]["offset"] for answer in answers
    )
    assert {answer["variant"] for answer in answers} == set(models)
    for answer in answers:
        assert answer["variant"] == assignment.of(answer["user_id"])
        assert answer["model"] == models[answer["variant"]]
        likely = [item.get("propensity") for item in answer["items"]]
        if answer["variant"] == "plain":
            assert set(likely) <= {None}
            assert all("propensity" not in item for item in answer["items"]), "messages do not grow"
        else:
            assert likely[:2] == [1.0] * min(2, len(likely))
            assert all(0 < chance <= 1 for chance in likely)
    assert any(item.get("propensity", 1) < 1 for answer in answers for item in answer["items"])


def test_batches_leave_no_trace_in_an_experiment(view: ItemStatistics) -> None:
    """Drawn lists included: each event's chance hangs on its own id."""
    outcomes = []
    for n in (1, 7, 400):
        processor, states, answers = both({"plain": 1, "drawn": 2}, view), dict[bytes, bytes | None](), []
        records = a_busy_hour(150)
        for first in range(0, len(records), n):
            cut = records[first : first + n]
            output = processor.process(
                cut,
                lambda keys, states=states: [states.get(key) for key in keys],  # type: ignore[misc]
                topic=TOPIC,
                partition=3,
                covers=(cut[0].offset, cut[-1].offset),
            )
            states.update(output.writes)
            answers += output.recommendations
        outcomes.append((answers, {key: raw for key, raw in states.items() if raw is not None}))
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_a_view_of_other_statistics_is_refused() -> None:
    """It would feed the model numbers that it was not trained on."""
    with pytest.raises(ValueError, match="other item statistics"):
        Processor([Arm("default", PlainBundle(), Policy())], ItemStatistics(type(FEATURES.statistics)()))


def test_warming_up_leaves_no_trace(view: ItemStatistics) -> None:
    """Neither in the view nor in the counters nor in what is answered."""
    cold, warm = Desk(view=view), Desk(view=view)
    n_items = len(view.catalogue)
    warm.processor.warm_up()
    assert warm.counters == cold.counters
    assert len(view.catalogue) == n_items
    records = a_busy_hour(50)
    assert warm.answer(records).recommendations == cold.answer(records).recommendations


# -- several partitions at once ----------------------------------------------------------------------------------------


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=5), seed=st.integers(0, 10**6))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_partitions_in_one_step_get_what_each_would_get_alone(
    view: ItemStatistics, sizes: list[int], seed: int
) -> None:
    """Twice, so that there are stored states; the same users in every partition, each with a record of its own."""
    together, alone = (both({"plain": 1.0, "drawn": 1.0}, view) for _ in range(2))
    states: list[dict[bytes, bytes | None]] = [{} for _ in sizes]
    for turn in range(2):
        batches = [
            Fetched(
                a_busy_hour(turn * size + size, seed + number)[turn * size :],
                lambda keys, number=number: [states[number].get(key) for key in keys],  # type: ignore[misc]
                TOPIC,
                number,
                (turn * size, turn * size + size - 1),
            )
            for number, size in enumerate(sizes)
        ]
        outputs = together.process_all(batches)
        for each, output in zip(batches, outputs, strict=True):
            of_it_alone = alone.process(
                each.records, each.load, topic=TOPIC, partition=each.partition, covers=each.covers
            )
            assert counted(output) == counted(of_it_alone)
            assert replace(output, activity=None) == replace(of_it_alone, activity=None)
        for kept, output in zip(states, outputs, strict=True):
            kept.update(output.writes)
    assert together.counters == alone.counters


# -- a vocabulary that is searched with an index -----------------------------------------------------------------------


def test_an_indexed_vocabulary_is_recommended_from_with_reasons_and_without_what_was_seen() -> None:
    """Events one by one and all in one batch get the same items; seen ones are left out, and lists are full."""
    pytest.importorskip("faiss", reason="the extra `index` is not installed")
    loaded = load_bundle(bundle("indexed"))
    announced = [ItemUpdate(item_id) for item_id in loaded.vocabulary]
    events = [event(f"user-{n % 3}", f"item-{n * 37 % 900}", n) for n in range(30)]
    answers = []
    for at_once in (1, 30):
        view = ItemStatistics(loaded.features.statistics)
        view.update_items(announced)
        view.refresh()
        desk = Desk(loaded, Policy(10, "history"), view=view)
        records = [record(offset, fields_) for offset, fields_ in enumerate(events)]
        answers.append(
            [one for first in range(0, 30, at_once) for one in said(desk.answer(records[first : first + at_once]))]
        )
    alone, together = answers
    assert list(map(items_of, alone)) == list(map(items_of, together))
    for number, answer in enumerate(alone):
        seen = {fields_["item_id"] for fields_ in events[: number + 1] if fields_["user_id"] == answer["user_id"]}
        assert len(items_of(answer)) == 10
        assert not seen & set(items_of(answer))
        assert all(any(reason.startswith("scale:") for reason in item["reasons"]) for item in answer["items"])
