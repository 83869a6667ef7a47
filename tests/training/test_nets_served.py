"""Every sequence model as a bundle: exported, loaded, and served through the composition that the worker runs."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stream.bundle.load import Bundle, load_bundle
from stream.bundle.manifest import TrainingWindow
from stream.bundle.parity import difference, take_rows
from stream.bundle.scorer import OnnxScorer
from stream.bundle.service import Arm
from stream.core.events import EventBatch
from stream.core.features import TensorSpec, menu
from stream.core.seam import Policy, Recommender, Scorer
from stream.core.state import blank_states
from stream.core.statistics import ItemStatistics
from stream.wire.messages import Event
from stream.worker.processor import Processor
from tests.training.sequence_nets import FEATURES, N_HISTORY, N_ITEMS, NETS, VOCABULARY, build, made_up, scores_after
from tests.wire.records import FakeRecord
from training.export import write_bundle
from training.module_scorer import ModuleScorer, example_inputs
from training.onnx_export import export_module
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
            parts=net.parts,
        )
    return {name: load_bundle(home / name) for name in NETS}


def in_pytorch(name: str) -> ModuleScorer:
    net = NETS[name]
    offered = menu(FEATURES, net.n_state)
    return ModuleScorer(
        build(name),
        inputs={wanted: offered[wanted] for wanted in net.inputs},
        n_state=net.n_state,
        space="vocabulary",
        parts=net.parts,
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


def answers(bundle: Bundle, records: list[FakeRecord], cuts: list[int]) -> list[list[dict[str, Any]]]:
    """The items of each record's recommendation, with the log cut into batches."""
    processor = Processor([Arm("default", bundle, Policy(n=N_ITEMS, seen="none"))], ItemStatistics(FEATURES.statistics))
    stored: dict[bytes, bytes | None] = {}
    told = []
    for first, end in itertools.pairwise(cuts):
        output = processor.process(
            records[first:end],
            lambda keys: [stored.get(key) for key in keys],
            topic="events",
            partition=0,
            covers=(first, end - 1),
        )
        stored.update(output.writes)
        told += [json.loads(value or b"")["items"] for _, value in output.recommendations]
    return told


def test_a_recommendation_says_which_time_scale_speaks_for_it_most(sequence_bundles: dict[str, Bundle]) -> None:
    """From the graph's parts to the message's reason, whatever the batches."""
    bundle = sequence_bundles["tempo"]
    assert bundle.parts == ("scale:minutes", "scale:hours", "scale:days", "scale:weeks")
    sent = [
        Event(user_id="ann", item_id=VOCABULARY[n * 7 % N_ITEMS], event_type="click", ts_ms=10**12 + 10**7 * n)
        for n in range(8)
    ]
    records = [FakeRecord(b"ann", msgspec.json.encode(event), n, event.ts_ms) for n, event in enumerate(sent)]
    told = [answers(bundle, records, cuts) for cuts in ([0, 8], [0, 1, 2, 5, 8])]
    assert [[item["reasons"] for item in items] for items in told[0]] == [
        [item["reasons"] for item in items] for items in told[1]
    ]
    # By hand: the event's own step, from the state that the seven before it left.
    state = np.zeros((1, bundle.scorer.n_state), np.float32)
    for n, event in enumerate(sent):
        gap_s = 0.0 if n == 0 else 1e4
        one: dict[str, NDArray[Any]] = {
            "item": np.array([VOCABULARY.index(event.item_id or "") + 1]),
            "kind": np.array([FEATURES.types.codes()["click"]]),
            "gap_s": np.array([gap_s], np.float32),
            "value": np.zeros(1, np.float32),
            "state": state,
        }
        outputs = bundle.scorer.score(one)
        state = outputs["state"].astype(np.float16).astype(np.float32)
    strongest = outputs["parts"][0].argmax(axis=1)
    expected = {
        VOCABULARY[item - 1]: [bundle.parts[part]] for item, part in zip(outputs["items"][0], strongest, strict=True)
    }
    assert {item["item_id"]: item["reasons"] for item in told[0][-1]} == expected
    assert len({str(reasons) for reasons in expected.values()}) > 1


def test_parts_that_do_not_sum_to_the_score_are_refused(tmp_path: Path) -> None:
    class Boasting(torch.nn.Module):
        """Says of each scale more than the score has."""

        def __init__(self) -> None:
            super().__init__()
            self.tempo = build("tempo")

        def forward(
            self,
            item: torch.Tensor,
            kind: torch.Tensor,
            gap_s: torch.Tensor,
            value: torch.Tensor,
            state: torch.Tensor,
        ) -> tuple[torch.Tensor, ...]:
            items, scores, after, parts = self.tempo(item, kind, gap_s, value, state)
            return items, scores, after, parts + 0.01

    with pytest.raises(ValueError, match=r"parts\[0, 0\] sum to"):
        write_bundle(
            tmp_path / "boasting",
            module=Boasting(),
            inputs=NETS["tempo"].inputs,
            features=FEATURES,
            space="vocabulary",
            name="boasting",
            version=1,
            training=TrainingWindow(0, 1, 1, "made up", "tests"),
            vocabulary=VOCABULARY,
            n_state=NETS["tempo"].n_state,
            parts=NETS["tempo"].parts,
        )


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
