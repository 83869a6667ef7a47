"""The scorer contract, for every implementation: a NumPy fake, the PyTorch module and the ONNX session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stream.bundle.load import load_bundle
from stream.bundle.parity import check_parts, difference, take_rows
from stream.core.content import N_TOKENS
from stream.core.features import menu
from stream.core.seam import Scorer
from tests.bundle.models import (
    ASKING_INPUTS,
    FEATURES,
    FUSED,
    FUSED_INPUTS,
    N_LARGE,
    N_STATE,
    N_VOCABULARY,
    RANKER_INPUTS,
    RECURRENT_INPUTS,
    FakeRanker,
    FakeRecurrent,
    asking,
    fused,
    large,
    ranker,
    recurrent,
)
from training.module_scorer import ModuleScorer, example_inputs
from training.nets.ranker import PADDING_SCORE

IMPLEMENTATIONS: dict[str, Callable[[Path], Scorer]] = {
    "ranker in NumPy": lambda _: FakeRanker(ranker()),
    "ranker in PyTorch": lambda _: ModuleScorer(
        ranker(), inputs={n: menu(FEATURES)[n] for n in RANKER_INPUTS}, n_state=0, space="candidates"
    ),
    "ranker in ONNX": lambda home: load_bundle(home / "ranker").scorer,
    "recurrent in NumPy": lambda _: FakeRecurrent(recurrent()),
    "recurrent in PyTorch": lambda _: ModuleScorer(
        recurrent(),
        inputs={n: menu(FEATURES, N_STATE)[n] for n in RECURRENT_INPUTS},
        n_state=N_STATE,
        space="vocabulary",
    ),
    "recurrent in ONNX": lambda home: load_bundle(home / "recurrent").scorer,
    "sequence model before a ranker in PyTorch": lambda _: ModuleScorer(
        asking(),
        inputs={n: menu(FUSED, asking().n_state)[n] for n in ASKING_INPUTS},
        n_state=asking().n_state,
        space="vocabulary",
        query=True,
    ),
    "sequence model before a ranker in ONNX": lambda home: load_bundle(home / "fused").retriever,  # type: ignore[dict-item]
    "large vocabulary in PyTorch": lambda _: ModuleScorer(
        large(),
        inputs={n: menu(FEATURES, large().config.n_state)[n] for n in RECURRENT_INPUTS},
        n_state=large().config.n_state,
        space="vocabulary",
        parts=large().parts,
    ),
    "large vocabulary in ONNX with an index": lambda home: load_bundle(home / "indexed").scorer,
    "many items before a ranker in ONNX with an index": lambda home: load_bundle(home / "fused-indexed").retriever,  # type: ignore[dict-item]
    "ranker behind it in PyTorch": lambda _: ModuleScorer(
        fused(asking()),
        inputs={n: menu(FUSED, n_query=asking().n_query)[n] for n in FUSED_INPUTS},
        n_state=0,
        space="candidates",
    ),
    "ranker behind it in ONNX": lambda home: load_bundle(home / "fused").scorer,
}
BEHIND = "ranker behind it"
BEFORE = "sequence model before a ranker"


@pytest.fixture(params=IMPLEMENTATIONS)
def scorer(request: pytest.FixtureRequest) -> Scorer:
    home: Path = request.getfixturevalue("indexed_bundles" if "index" in request.param else "bundles")
    return IMPLEMENTATIONS[request.param](home)


def rows_for(scorer: Scorer, n_rows: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    rows = example_inputs(scorer.inputs, n_rows=max(1, n_rows), n_vocabulary=N_VOCABULARY, seed=seed)
    return take_rows(rows, n_rows)


@pytest.mark.parametrize("n_rows", [0, 1, 2, 33, 257])
def test_outputs_have_the_types_and_shapes_of_the_contract_at_any_batch_size(scorer: Scorer, n_rows: int) -> None:
    outputs = scorer.score(rows_for(scorer, n_rows))
    given = {"items", "scores"} | ({"state"} if scorer.n_state > 0 else set())
    assert set(outputs) - {"query", "parts"} == given
    assert outputs["items"].dtype == np.int64
    assert outputs["scores"].dtype == np.float32
    assert outputs["items"].shape == outputs["scores"].shape
    assert outputs["items"].shape[0] == n_rows
    if scorer.n_state > 0:
        assert outputs["state"].dtype == np.float32
        assert outputs["state"].shape == (n_rows, scorer.n_state)


def test_items_are_candidates_passed_through_or_vocabulary_indices_best_first(scorer: Scorer) -> None:
    inputs = rows_for(scorer, 20)
    outputs = scorer.score(inputs)
    if scorer.space == "candidates":
        assert (outputs["items"] == inputs["candidates"]).all()
        assert (outputs["scores"][inputs["candidates"] < 0] <= PADDING_SCORE).all()
    else:
        assert outputs["items"].min() >= 1
        assert outputs["items"].max() <= N_LARGE
        assert all(len(set(row)) == len(row) for row in outputs["items"].tolist())
        assert (np.diff(outputs["scores"], axis=1) <= 0).all()
        check_parts(outputs)


def test_a_row_scores_the_same_alone_and_in_any_batch(scorer: Scorer) -> None:
    inputs = rows_for(scorer, 40)
    together = scorer.score(inputs)
    for row in (0, 7, 39):
        alone = scorer.score({name: array[row : row + 1] for name, array in inputs.items()})
        assert difference({name: array[row : row + 1] for name, array in together.items()}, alone) is None


def test_other_inputs_are_ignored_and_none_is_changed(scorer: Scorer) -> None:
    inputs = rows_for(scorer, 5)
    before = {name: array.copy() for name, array in inputs.items()}
    with_more = scorer.score(inputs | {"windows": np.zeros((5, 5, 8), np.float32)})
    assert difference(scorer.score(inputs), with_more) is None
    assert all((inputs[name] == before[name]).all() for name in before)


def test_a_missing_or_misshapen_input_is_named(scorer: Scorer) -> None:
    inputs = rows_for(scorer, 5)
    for name, spec in scorer.inputs.items():
        with pytest.raises(ValueError, match=f"'{name}'"):
            scorer.score({other: array for other, array in inputs.items() if other != name})
        if len(spec.shape) > 1:
            with pytest.raises(ValueError, match=f"'{name}'"):
                scorer.score(inputs | {name: inputs[name][:, :-1]})


def test_rows_of_different_length_are_refused(scorer: Scorer) -> None:
    inputs = rows_for(scorer, 5)
    last = list(scorer.inputs)[-1]
    with pytest.raises(ValueError, match="B"):
        scorer.score(inputs | {last: inputs[last][:4]})


@pytest.mark.parametrize("model", [BEFORE, BEHIND])
@pytest.mark.parametrize("n_rows", [1, 3, 64, 300])
def test_both_graphs_of_a_fused_bundle_are_their_modules(model: str, n_rows: int, bundles: Path) -> None:
    module, session = (IMPLEMENTATIONS[f"{model} in {kind}"](bundles) for kind in ("PyTorch", "ONNX"))
    inputs = rows_for(module, n_rows, seed=n_rows)
    assert difference(module.score(inputs), session.score(inputs)) is None


def test_the_query_that_goes_over_gives_the_score_that_the_sequence_model_gave(bundles: Path) -> None:
    """What the ranker hears of an item of the vocabulary is the sequence model's own score of it."""
    before = asking()
    session = load_bundle(bundles / "fused").retriever
    assert session is not None
    found = session.score(rows_for(session, 7))
    table = before.representation().numpy()
    heard = np.einsum("bq,bkq->bk", found["query"], table[found["items"]])
    np.testing.assert_allclose(heard, found["scores"], rtol=1e-4, atol=1e-5)


def test_an_unknown_item_is_heard_by_its_words() -> None:
    """Two candidates alike but for their words: the one whose words the query likes better is heard better."""
    before = asking()
    ranker = fused(before)
    words = before.words()
    assert words is not None
    query = words[3:4]
    content = torch.zeros(1, 2, N_TOKENS, dtype=torch.int64)
    content[0, 0, :2] = torch.tensor([3, 0])
    features = torch.zeros(1, 2, ranker.config.n_features)
    told = ranker.told(features, torch.zeros(1, 2, dtype=torch.int64), content, query)
    assert told[0, 0, -2] > told[0, 1, -2]
    assert told[0, :, -1].tolist() == [0.0, 0.0], "neither is known"


@pytest.mark.parametrize("model", ["ranker", "recurrent"])
@pytest.mark.parametrize("n_rows", [1, 3, 64, 300])
def test_all_implementations_give_the_same(model: str, n_rows: int, bundles: Path) -> None:
    fake, module, session = (IMPLEMENTATIONS[f"{model} in {kind}"](bundles) for kind in ("NumPy", "PyTorch", "ONNX"))
    inputs = rows_for(fake, n_rows, seed=n_rows)
    expected = fake.score(inputs)
    assert difference(expected, module.score(inputs)) is None
    assert difference(expected, session.score(inputs)) is None


def test_state_carried_through_many_steps_stays_the_same_in_every_implementation(bundles: Path) -> None:
    scorers = [IMPLEMENTATIONS[f"recurrent in {kind}"](bundles) for kind in ("NumPy", "PyTorch", "ONNX")]
    states = [np.zeros((4, N_STATE), np.float32) for _ in scorers]
    for step in range(50):
        inputs = rows_for(scorers[0], 4, seed=step)
        states = [
            scorer.score(inputs | {"state": state})["state"] for scorer, state in zip(scorers, states, strict=True)
        ]
    assert np.abs(states[0] - states[1]).max() < 1e-5
    assert np.abs(states[0] - states[2]).max() < 1e-5


def test_values_of_other_numeric_types_are_cast(bundles: Path) -> None:
    scorer = load_bundle(bundles / "recurrent").scorer
    inputs = rows_for(scorer, 6)
    narrow = inputs | {"item": inputs["item"].astype(np.int32), "state": np.asfortranarray(inputs["state"])}
    assert difference(scorer.score(inputs), scorer.score(narrow)) is None
