"""Every sequence model as a bundle: exported, loaded, and served through the composition that the worker runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stream.bundle.load import Bundle, load_bundle
from stream.bundle.manifest import TrainingWindow
from stream.bundle.parity import difference, take_rows
from stream.bundle.scorer import OnnxScorer
from stream.core.events import EventBatch
from stream.core.features import TensorSpec, menu
from stream.core.seam import Policy, Recommender, Scorer
from stream.core.state import blank_states
from stream.core.statistics import ItemStatistics
from tests.training.sequence_nets import FEATURES, N_HISTORY, N_ITEMS, NETS, VOCABULARY, build, made_up, scores_after
from training.export import ModuleScorer, example_inputs, export_module, write_bundle
from training.sequences import UserSequences

N_USERS = 3


@pytest.fixture(scope="session")
def sequence_bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """One bundle of each model, written once: an export takes seconds."""
    home = tmp_path_factory.mktemp("sequence-models")
    for name, net in NETS.items():
        write_bundle(
            home / name,
            module=build(name),
            inputs=net.inputs,
            features=FEATURES,
            space="vocabulary",
            name=name.replace("_", "-"),
            version=1,
            training=TrainingWindow(0, 1, 1, "made up", "tests"),
            vocabulary=VOCABULARY,
            n_state=net.n_state,
        )
    return {name: load_bundle(home / name) for name in NETS}


def in_pytorch(name: str) -> ModuleScorer:
    net = NETS[name]
    offered = menu(FEATURES, net.n_state)
    return ModuleScorer(
        build(name), inputs={wanted: offered[wanted] for wanted in net.inputs}, n_state=net.n_state, space="vocabulary"
    )


def serve(scorer: Scorer, sequences: UserSequences, n_batch: int) -> NDArray[np.float32]:
    """(U, V) scores right after each user's last event; all are served in batches of `n_batch`, by time.

    Every item is known and asked for, so a recommendation holds every score but those of what the user disliked: NaN.
    """
    recommender = Recommender(FEATURES, scorer, VOCABULARY, Policy(n=N_ITEMS, seen="none"))
    view = ItemStatistics(FEATURES.statistics)
    view.know(VOCABULARY)
    number = view.catalogue.index.lookup(recommender.vocabulary.keys)[1:].tolist()
    states = blank_states(recommender.state_spec, N_USERS)
    scores = np.zeros((N_USERS, N_ITEMS), np.float32)
    user, order = sequences.user(), np.argsort(sequences.ts_ms, kind="stable")
    for start in range(0, len(order), n_batch):
        rows = order[start : start + n_batch]
        batch = EventBatch.build(
            [sequences.user_ids[u] for u in user[rows]],
            ["unheard of" if i == 0 else VOCABULARY[i - 1] for i in sequences.item[rows]],
            sequences.kind[rows],
            sequences.ts_ms[rows],
            offset=start + np.arange(len(rows)),
            value=np.where(sequences.value[rows] == 0, np.nan, sequences.value[rows]),
        )
        who = np.array([int(name.removeprefix("user-")) for name in batch.users])
        stepped = recommender.step(states[who], batch, view, source="events/0")
        states[who] = stepped.folded.states
        for row, items, given in zip(rows, stepped.ranked.items, stepped.ranked.scores, strict=True):
            by_number = dict(zip(items.tolist(), given.tolist(), strict=True))
            scores[user[row]] = [by_number.get(n, np.nan) for n in number]
    return scores


@pytest.mark.parametrize("name", NETS)
def test_a_bundle_serves_what_was_trained(name: str, sequence_bundles: dict[str, Bundle]) -> None:
    """Events in, scores out, through records and features: the same as the training form on the same log.

    Recurrent state goes through half precision between events, hence the wider tolerance.
    """
    sequences = made_up(N_USERS, N_HISTORY, seed=4, ties=False)  # a record orders ties by key, a log does not
    expected = scores_after(build(name), sequences).numpy()
    served = serve(sequence_bundles[name].scorer, sequences, n_batch=5)
    tolerance = 1e-4 if NETS[name].n_state == 0 else 0.02
    assert np.isfinite(served).mean() > 0.8
    assert np.nanmax(np.abs(served - expected)) < tolerance * expected.std()


@pytest.mark.parametrize("name", NETS)
def test_batches_of_any_size_serve_the_same(name: str, sequence_bundles: dict[str, Bundle]) -> None:
    sequences = made_up(N_USERS, N_HISTORY, seed=4)
    scorer = sequence_bundles[name].scorer
    one_by_one = serve(scorer, sequences, n_batch=1)
    for n_batch in (2, 7, 100):
        assert np.nanmax(np.abs(serve(scorer, sequences, n_batch) - one_by_one)) < 1e-4 * np.nanstd(one_by_one)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("n_rows", [0, 1, 3, 64, 257])
def test_pytorch_and_onnx_agree_at_any_batch_size(name: str, n_rows: int, sequence_bundles: dict[str, Bundle]) -> None:
    reference, scorer = in_pytorch(name), sequence_bundles[name].scorer
    rows = take_rows(example_inputs(scorer.inputs, n_rows=max(1, n_rows), n_vocabulary=N_ITEMS, seed=n_rows), n_rows)
    found = scorer.score(rows)
    assert found["items"].shape == (n_rows, N_ITEMS)
    if n_rows > 0:
        assert difference(reference.score(rows), found) is None
        assert all(sorted(items) == list(range(1, N_ITEMS + 1)) for items in found["items"].tolist())
        assert (np.diff(found["scores"], axis=1) <= 0).all()


@pytest.mark.parametrize("name", ["moving_average", "transformer"])
def test_histories_of_any_length_fit_one_graph(name: str) -> None:
    """With the length left free, ONNX agrees with PyTorch at each, from a single event on."""
    reference = in_pytorch(name)
    free = {
        wanted: TensorSpec(spec.dtype, tuple("L" if axis == N_HISTORY else axis for axis in spec.shape))
        for wanted, spec in reference.inputs.items()
    }
    reference = ModuleScorer(build(name), inputs=free, n_state=0, space="vocabulary")
    model = export_module(reference, example_inputs(free, n_vocabulary=N_ITEMS))
    shape = ("B", N_ITEMS)
    outputs = {"items": TensorSpec("int64", shape), "scores": TensorSpec("float32", shape)}
    exported = OnnxScorer(model, inputs=free, outputs=outputs, n_state=0, space="vocabulary")
    for length in (1, 2, 5, N_HISTORY, 2 * N_HISTORY):
        for n_rows in (1, 6):
            rows = example_inputs(free, n_rows=n_rows, n_vocabulary=N_ITEMS, lengths={"L": length}, seed=length)
            assert difference(reference.score(rows), exported.score(rows)) is None


@pytest.mark.parametrize("name", NETS)
def test_a_user_without_known_items_gets_finite_scores(name: str, sequence_bundles: dict[str, Bundle]) -> None:
    scorer = sequence_bundles[name].scorer
    nothing: dict[str, NDArray[Any]] = {
        wanted: np.zeros([2 if axis == "B" else int(axis) for axis in spec.shape], spec.dtype)
        for wanted, spec in scorer.inputs.items()
    }
    outputs = scorer.score(nothing)
    assert all(np.isfinite(array).all() for array in outputs.values())


@pytest.mark.parametrize("name", ["lstm_seq2seq", "tempo"])
def test_state_stays_finite_in_half_precision_over_many_events(name: str, sequence_bundles: dict[str, Bundle]) -> None:
    scorer, n_state = sequence_bundles[name].scorer, NETS[name].n_state
    state = np.zeros((4, n_state), np.float32)
    for step in range(200):
        rows = example_inputs(scorer.inputs, n_rows=4, n_vocabulary=N_ITEMS, seed=step) | {"state": state}
        state = scorer.score(rows)["state"].astype(np.float16).astype(np.float32)
    assert np.isfinite(state).all()
    assert np.abs(state).max() < 1000
