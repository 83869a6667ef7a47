"""What is done to an event's value: each step against plain Python, value by value."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.core.events import FORGET, REQUEST
from stream.core.features import FeatureSpec
from stream.core.seam import Recommender
from stream.core.state import decode_states
from stream.core.values import Clip, Fill, Log1p, Scale, ValueSpec, ValueStep
from tests.core.histories import SOURCE, T0_MS, Happening, batch_of
from tests.core.test_seam import VIEW, ByFeatures
from tests.core.worlds import FEATURES

NUMBERS = st.floats(-1e6, 1e6, width=32)
STEPS = st.one_of(
    st.builds(Fill, NUMBERS),
    st.builds(lambda a, b: Clip(min(a, b), max(a, b)), NUMBERS, NUMBERS),
    st.just(Log1p()),
    st.builds(Scale, NUMBERS, st.floats(0.001, 1e6)),
)
SPECS = st.builds(ValueSpec, st.lists(STEPS, max_size=4).map(tuple), st.sampled_from([(), (0,), (3, 1)]))
VALUES = st.lists(st.tuples(st.floats(width=32), st.sampled_from([0, 1, 3, 7, REQUEST, FORGET])), max_size=12)


def naive(step: ValueStep, value: float) -> float:
    """One step on one number."""
    if isinstance(step, Fill):
        return step.value if math.isnan(value) else value
    if math.isnan(value):
        return value
    if isinstance(step, Clip):
        return min(max(value, step.low), step.high)
    if isinstance(step, Log1p):
        return math.copysign(math.log1p(abs(value)), value)
    return (value - step.center) / step.scale


@given(spec=SPECS, drawn=VALUES)
def test_each_value_goes_through_the_steps_in_order(spec: ValueSpec, drawn: list[tuple[float, int]]) -> None:
    values, kinds = np.array([v for v, _ in drawn], np.float32), np.array([k for _, k in drawn], np.uint8)
    found = spec.transform(values, kinds)
    assert found.dtype == np.float32
    for (value, kind), result in zip(drawn, found.tolist(), strict=True):
        expected = value
        if spec and (kind in spec.kinds if spec.kinds else kind < REQUEST):
            expected = value if math.isfinite(value) else math.nan
            for step in spec.steps:
                expected = naive(step, expected)
            limit = float(np.finfo(np.float32).max)
            expected = min(max(expected, -limit), limit) if not math.isnan(expected) else expected
        np.testing.assert_allclose(result, np.float32(expected), rtol=2e-7)


@given(spec=SPECS, drawn=VALUES, at=st.integers(0, 12))
def test_a_value_has_one_result_wherever_it_stands(spec: ValueSpec, drawn: list[tuple[float, int]], at: int) -> None:
    values, kinds = np.array([v for v, _ in drawn], np.float32), np.array([k for _, k in drawn], np.uint8)
    parts = [spec.transform(values[:at], kinds[:at]), spec.transform(values[at:], kinds[at:])]
    assert np.concatenate(parts).tobytes() == spec.transform(values, kinds).tobytes()


@given(spec=SPECS)
def test_steps_come_back_from_json(spec: ValueSpec) -> None:
    assert ValueSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    features = replace(FEATURES, values=spec)
    again = FeatureSpec.from_json(json.loads(json.dumps(features.to_json())))
    assert again.digest() == features.digest()
    assert again.values == (spec or ValueSpec())


def test_steps_belong_to_the_meaning_of_features() -> None:
    assert replace(FEATURES, values=ValueSpec((Log1p(),))).digest() != FEATURES.digest()


def test_without_steps_a_specification_is_what_it_was_before_there_were_any() -> None:
    assert "values" not in FEATURES.to_json()


@given(spec=SPECS, drawn=VALUES)
def test_what_is_folded_is_what_the_steps_give(spec: ValueSpec, drawn: list[tuple[float, int]]) -> None:
    if not drawn:
        return
    raw = batch_of(
        [Happening("a", "" if k >= REQUEST else f"i{n}", k, T0_MS + n, v) for n, (v, k) in enumerate(drawn)],
        n_segments=2,
    )
    prepared = replace(raw, value=spec.transform(raw.value, raw.kind))
    with_steps = Recommender(replace(FEATURES, values=spec), ByFeatures())
    plain = Recommender(FEATURES, ByFeatures())
    blank = decode_states(plain.state_spec, [None])
    one, two = (r.step(blank, b, VIEW, source=SOURCE) for r, b in ((with_steps, raw), (plain, prepared)))
    assert one.folded.states.tobytes() == two.folded.states.tobytes()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Clip(2, 1),
        lambda: Scale(0, 0),
        lambda: ValueSpec((Fill(math.nan),)),
        lambda: ValueSpec((Clip(-math.inf, 1),)),
        lambda: ValueSpec((Fill(1e39),)),
        lambda: ValueSpec((), (REQUEST,)),
        lambda: ValueSpec.from_json({"steps": [{"step": "square"}], "kinds": []}),
        lambda: ValueSpec.from_json({"steps": [{"step": "fill"}], "kinds": []}),
        lambda: ValueSpec.from_json({"steps": []}),
    ],
)
def test_impossible_steps_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        make()
