"""Bundles in the shadow: what they would have said, without any trace in what is said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stream.bundle.service import Arm, ShadowArm
from stream.core.seam import Policy
from stream.core.statistics import ItemStatistics
from stream.wire.encode import rec_id
from stream.worker.processor import Processor
from stream.worker.shadow import ShadowCounters, Shadows
from tests.wire.records import FakeRecord
from tests.worker.plain import FEATURES, VOCABULARY, PlainBundle, PlainRanker, PlainRecurrent
from tests.worker.test_processor import TOPIC, Desk, a_busy_hour, counted, said

RECURRENT = PlainBundle(PlainRecurrent(), vocabulary=VOCABULARY, reference="recurrent@1", tag=5)


class Failing(PlainRanker):
    """Cannot score."""

    def score(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        raise RuntimeError(f"no {len(inputs)}")


def shadows(*arms: ShadowArm) -> Shadows:
    return Shadows(arms, ShadowCounters())


def answered(records: list[FakeRecord], own: Shadows | None, cuts: int = 50) -> tuple[list[Any], dict[bytes, Any]]:
    """What a worker publishes and stores, with the shadows scored after each batch; what they said goes to `SAID`."""
    view = ItemStatistics(FEATURES.statistics)
    view.know(VOCABULARY)
    processor = Processor([Arm("default", PlainBundle(), Policy(5))], view, shadows=own)
    states: dict[bytes, bytes | None] = {}
    published = []
    for first in range(0, len(records), cuts):
        some = records[first : first + cuts]
        output = processor.process(
            some,
            lambda keys: [states.get(key) for key in keys],
            topic=TOPIC,
            partition=3,
            covers=(some[0].offset, some[-1].offset),
        )
        states.update(output.writes)
        published.append((output.recommendations, output.dead_letters, counted(output)))
        while own is not None and own.n_waiting > 0:
            sends = own.score(view)
            if sends is not None:
                SAID.extend((key, json.loads(value or b"")) for key, value in sends.pairs)
    return published, states


SAID: list[tuple[bytes | None, dict[str, Any]]] = []


@pytest.fixture(autouse=True)
def silence() -> None:
    SAID.clear()


def test_a_shadow_that_is_the_same_bundle_says_the_same_as_was_published() -> None:
    """The record before the event is what both saw, also within a batch; only the variant differs."""
    records = a_busy_hour()
    published, _ = answered(records, shadows(ShadowArm(PlainBundle(), Policy(5), 1.0)), cuts=400)
    wanted = [json.loads(value or b"") for recommendations, _, _ in published for _, value in recommendations]
    assert [{**message, "variant": "default"} for _, message in SAID] == wanted
    assert {message["variant"] for _, message in SAID} == {"shadow"}
    assert all(key == message["user_id"].encode() for key, message in SAID)


@pytest.mark.parametrize("bundle", [RECURRENT, PlainBundle(Failing(), reference="failing@1")])
def test_shadows_leave_no_trace_in_what_is_published_and_stored(bundle: PlainBundle) -> None:
    records = a_busy_hour()
    own = shadows(ShadowArm(bundle, Policy(5), 1.0), ShadowArm(PlainBundle(reference="other@1"), Policy(3), 0.5))
    assert answered(records, own) == answered(records, None)
    n_answered = len({message["rec_id"] for _, message in SAID if message["model"] != "other@1"})
    if bundle is RECURRENT:
        assert own.counters.n_errors == 0
        assert n_answered > 300
    else:
        assert own.counters.n_errors > 10
        assert n_answered == 0
    others = [message for _, message in SAID if message["model"] == "other@1"]
    assert 100 < len(others) < 260
    assert own.counters.n_scored == len(SAID)


def test_a_recurrent_shadow_says_what_it_would_have_said_from_the_start() -> None:
    """Its state comes from the ring, which holds all of a short history."""
    records = a_busy_hour(150)
    own = shadows(ShadowArm(RECURRENT, Policy(5), 1.0))
    answered(records, own)
    view = ItemStatistics(FEATURES.statistics)
    view.know(VOCABULARY)
    alone = {each["rec_id"]: each for each in said(Desk(RECURRENT, view=view).answer(records))}
    late_or_erased = {"forget"}
    for _, message in SAID:
        user = message["user_id"]
        kinds = [
            json.loads(each.value or b"{}")
            for each in records
            if each.key == user.encode() and len(each.value or b"") < 500
        ]
        times = [each.get("ts_ms") for each in kinds if isinstance(each, dict)]
        if times != sorted(times, key=lambda ms: ms or 0) or late_or_erased & {
            each.get("event_type") for each in kinds
        }:
            continue  # the ring is sorted by time; a state that was carried is not
        theirs = alone[message["rec_id"]]
        assert [item["item_id"] for item in message["items"]] == [item["item_id"] for item in theirs["items"]]


def test_the_sample_is_the_same_wherever_batches_are_cut_and_as_large_as_asked() -> None:
    records = a_busy_hour()
    chosen = []
    for cuts in (1, 30, 400):
        SAID.clear()
        answered(records, shadows(ShadowArm(PlainBundle(), Policy(5), 0.3)), cuts=cuts)
        chosen.append({message["rec_id"] for _, message in SAID})
    assert chosen[0] == chosen[1] == chosen[2]
    assert 0.2 * len(records) < len(chosen[0]) < 0.4 * len(records)
    assert chosen[0] <= {rec_id(TOPIC, 3, record.offset) for record in records}


def test_a_queue_that_is_full_drops() -> None:
    own = shadows(ShadowArm(PlainBundle(), Policy(5), 1.0))
    view = ItemStatistics(FEATURES.statistics)
    processor = Processor([Arm("default", PlainBundle(), Policy(5))], view, shadows=own)
    for round_ in range(8):
        records = [replace(each, offset=each.offset + 400 * round_) for each in a_busy_hour()]
        covers = (records[0].offset, records[-1].offset)
        processor.process(records, lambda keys: [None] * len(keys), topic=TOPIC, partition=3, covers=covers)
    assert own.n_waiting <= 1024
    assert own.counters.n_dropped > 1_000


def test_what_is_wrong_with_a_sample_is_counted_not_raised() -> None:
    own = shadows(ShadowArm(PlainBundle(), Policy(5), 1.0))
    own.offer(None, None, None)  # type: ignore[arg-type]
    assert own.counters.n_errors == 1
    assert np.isfinite(own.n_waiting)
