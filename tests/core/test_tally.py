"""What is counted while a model serves, held against distributions of its training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stream.core.distributions import Binned, named_values, psi
from stream.core.features import candidate_feature_names, context_feature_names
from stream.core.tally import Tally
from tests.worker.plain import FEATURES

N_F, N_G = len(candidate_feature_names(FEATURES)), len(context_feature_names(FEATURES))


def served(n: int, seed: int, shift: float = 0.0) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Inputs and outputs of n events with up to 24 candidates each; features are rounded, so that bins are hit."""
    rng = np.random.default_rng(seed)
    there = np.arange(24) < rng.integers(0, 25, (n, 1))
    candidates = np.where(there, rng.integers(0, 99, (n, 24)), -1)
    inputs = {
        "candidates": candidates,
        "candidate_features": np.round(rng.normal(shift, 1, (n, 24, N_F)), 1).astype(np.float32),
        "context_features": np.round(rng.normal(shift, 1, (n, N_G)), 1).astype(np.float32),
    }
    scores = np.where(there, rng.normal(shift, 1, (n, 24)), -np.inf).astype(np.float32)
    return inputs, {"items": candidates, "scores": scores}


def references(seed: int = 0) -> dict[str, Binned]:
    inputs, outputs = served(3000, seed)
    return {name: Binned.of(values) for name, values in named_values(FEATURES, inputs, outputs).items()}


def fed(tally: Tally, n: int, seed: int, shift: float = 0.0, at_once: int = 40) -> None:
    inputs, outputs = served(n, seed, shift)
    for first in range(0, n, at_once):
        here = slice(first, first + at_once)
        rows = np.arange(n)[here] - first
        tally(rows, {k: v[here] for k, v in inputs.items()}, {k: v[here] for k, v in outputs.items()})


def test_the_index_is_that_of_all_values_where_every_one_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The naive way: names, bins and index of `stream.core.distributions`, which training and `drift` use."""
    monkeypatch.setattr("stream.core.tally._EVERY_CANDIDATE", 1)
    known = references()
    tally = Tally(FEATURES, known, every=1)
    fed(tally, 500, seed=1, shift=0.2)
    values = named_values(FEATURES, *served(500, 1, 0.2))
    moved = tally.moved()
    assert moved.n_events == 500
    assert moved.index.keys() == known.keys() == values.keys()
    for name, reference in known.items():
        assert moved.index[name] == pytest.approx(psi(reference, reference.counts(values[name])), abs=1e-9), name


@pytest.mark.parametrize("at_once", [1, 7, 256])
def test_a_sample_of_the_same_is_steady_and_one_of_another_kind_is_not(at_once: int) -> None:
    tally = Tally(FEATURES, references())
    fed(tally, 16000, seed=2, at_once=at_once)
    same = tally.moved()
    assert abs(same.n_events - 1000) < 100, "one of sixteen"
    assert same.verdict == "steady", same.worst(3)
    fed(tally, 16000, seed=3, shift=1.5, at_once=at_once)
    assert tally.moved().verdict == "changed"
    assert min(tally.moved().groups.values()) > 0.25


def test_steps_leave_the_window_one_by_one() -> None:
    """
    shifted | same | same |
            [ window of two ]
    """
    tally = Tally(FEATURES, references(), n_steps=2)
    fed(tally, 16000, seed=4, shift=1.5)
    for seed in (5, 6):
        tally.roll()
        fed(tally, 16000, seed=seed)
        assert tally.moved().verdict == ("changed" if seed == 5 else "steady")
    tally.clear()
    assert tally.moved().n_events == 0
    assert set(tally.moved().index.values()) == {0.0}


def test_few_events_are_not_judged() -> None:
    tally = Tally(FEATURES, references())
    fed(tally, 800, seed=7, shift=3)
    assert tally.moved().verdict == "too few"


def test_what_a_bundle_does_not_tell_of_is_passed_over() -> None:
    """As of a sequence model, which has no candidates: its scores alone."""
    scores = np.random.default_rng(0).normal(size=(5000, 3)).astype(np.float32)
    known = {"score": Binned.of(scores.max(1)), "candidate:of another version": Binned.of(scores)}
    tally = Tally(FEATURES, known, every=1)
    items = np.tile([3, 2, 0], (400, 1))  # the last place is empty, whatever stands there
    said = {"items": items, "scores": np.where(items > 0, scores[:400], 99).astype(np.float32)}
    tally(np.arange(400), {"item": np.ones(400, np.int64)}, said)
    moved = tally.moved()
    assert moved.n_events == 400
    assert moved.index["candidate:of another version"] == 0.0
    assert 0 < moved.index["score"] < 1
    assert moved.groups.keys() == {"score", "history"}


def test_features_of_one_kind_are_one_group() -> None:
    tally = Tally(FEATURES, references())
    assert set(tally.moved().groups) == {
        "popularity", "co-visitation", "own", "taste", "age", "history", "kind", "segment", "score",
    }  # fmt: skip
