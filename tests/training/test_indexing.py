"""What an index is asked with scores items as the net does; it is made where it is wanted, and must find enough."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stream.bundle.load import load_bundle
from stream.bundle.parity import difference
from stream.core.features import TensorSpec, menu
from stream.errors import PolytempoError
from tests.bench.growth_vocabulary import made_up as clusters
from tests.bundle.models import (
    ASKING_INPUTS,
    FEATURES,
    FUSED,
    N_LARGE,
    RECURRENT_INPUTS,
    asking,
    large,
    recurrent,
    write_indexed,
    write_recurrent,
)
from tests.training.sequence_nets import FEATURES as NET_FEATURES
from tests.training.sequence_nets import N_ITEMS, NETS, build, made_up
from training.indexing import IndexSettings, build_index, real_rows, some_histories
from training.module_scorer import ModuleScorer, example_inputs
from training.nets.query import query_module, vectors_of
from training.sequences import histories, pad

needs_faiss = pytest.mark.skipif(find_spec("faiss") is None, reason="the extra `index` is not installed")

ASKED: dict[str, Any] = {
    **{name: (lambda name=name: build(name), NETS[name].inputs, NETS[name].n_state, NETS[name].parts, NET_FEATURES)
       for name in ("transformer", "lstm_seq2seq", "tempo")},
    "recurrent": (recurrent, RECURRENT_INPUTS, 16, (), FEATURES),
    "sequence model before a ranker": (asking, ASKING_INPUTS, asking().n_state, (), FUSED),
}  # fmt: skip


class Line:
    """Asks for what it is given, or finds the best by looking at everything."""

    n_state = 0
    space: Any = "vocabulary"

    def __init__(self, vectors: NDArray[np.float32], n_best: int = 100) -> None:
        self.inputs = {"query": TensorSpec("float32", ("B", vectors.shape[1]))}
        self.vectors, self.n_best = vectors, n_best

    def score(self, inputs: Any) -> dict[str, NDArray[Any]]:
        """Both at once."""
        products = inputs["query"] @ self.vectors.T
        return {**inputs, "items": np.argsort(-products, axis=1, kind="stable")[:, : self.n_best] + 1}


@pytest.mark.parametrize("name", ASKED)
def test_the_product_of_a_query_and_a_vector_is_the_score(name: str) -> None:
    """For each net that can be asked, with its state and its parts."""
    make, inputs, n_state, parts, features = ASKED[name]
    net = make()
    query = "before" in name
    specs = {wanted: menu(features, n_state)[wanted] for wanted in inputs}
    exact = ModuleScorer(net, inputs=specs, n_state=n_state, space="vocabulary", parts=parts, query=query)
    module = query_module(net, inputs)
    assert module is not None
    asks = ModuleScorer(module, inputs=specs, n_state=n_state, space="vocabulary", parts=parts, asks=True)
    rows = example_inputs(specs, n_rows=9, n_vocabulary=N_ITEMS)
    expected, asked = exact.score(rows), asks.score(rows)
    products = asked["query"] @ vectors_of(net).T
    assert asked["query"].dtype == vectors_of(net).dtype == np.float32
    np.testing.assert_allclose(
        np.take_along_axis(products, expected["items"] - 1, axis=1), expected["scores"], rtol=1e-4, atol=1e-5
    )
    assert difference({k: expected[k] for k in expected.keys() & asked.keys()}, asked) is None
    if parts:
        each = np.einsum("bgq,bkq->bkg", asked["queries"], vectors_of(net)[expected["items"] - 1])
        np.testing.assert_allclose(each, expected["parts"], rtol=1e-3, atol=1e-4)


def test_moving_averages_cannot_be_asked() -> None:
    """What they add for the user's own items is no product."""
    assert query_module(build("moving_average"), NETS["moving_average"].inputs) is None


def test_a_net_without_state_is_asked_with_the_ends_of_histories() -> None:
    """As the worker would give them."""
    batch = some_histories(made_up(5))
    module = query_module(build("transformer"), NETS["transformer"].inputs)
    assert module is not None
    rows = real_rows(module, NETS["transformer"].inputs, batch, 0, 7)
    expected = histories(batch, batch.length - 1, 7)
    for name in NETS["transformer"].inputs:
        np.testing.assert_array_equal(rows[name], getattr(expected, name).numpy())


def test_a_net_with_state_is_asked_with_the_state_before_the_last_event() -> None:
    """Of histories that differ in length; as long as it is rounded as the record rounds it."""
    sequences = made_up(4)
    spans = np.stack([sequences.start[:-1], sequences.start[1:] - np.array([0, 3, 11, 6])], axis=1)
    batch = pad(sequences, spans)
    net, inputs = build("tempo"), NETS["tempo"].inputs
    module = query_module(net, inputs)
    assert module is not None
    rows = real_rows(module, inputs, batch, NETS["tempo"].n_state, 0)
    for user in range(4):
        state = torch.zeros(1, NETS["tempo"].n_state)
        for at in range(int(batch.length[user]) - 1):
            event = (getattr(batch, name)[user : user + 1, at] for name in ("item", "kind", "gap_s", "value"))
            state = net.step(*event, state)[2].detach().half().float()
        np.testing.assert_allclose(rows["state"][user], state[0].numpy(), rtol=2e-3, atol=1e-5)
        assert rows["item"][user] == batch.item[user, batch.length[user] - 1]


def test_histories_are_the_last_events_of_users_that_have_some() -> None:
    """At most 32 events of each."""
    sequences = made_up(300, 40)
    batch = some_histories(sequences)
    assert batch.item.shape == (256, 32)
    assert batch.item[0].tolist() == sequences.item[8:40].tolist()
    assert len(some_histories(sequences.where(sequences.user() < 3)).item) == 3


@needs_faiss
def test_as_many_lists_are_looked_into_as_the_recall_needs() -> None:
    """The share that is found is counted against all products."""
    vectors, queries = clusters(20_000)
    line = Line(vectors)
    least, recall = build_index(vectors, line, line, {"query": queries}, 0.5)
    found, _ = least.search(queries, 100)
    best = line.score({"query": queries})["items"] - 1
    assert recall == np.mean([len(set(a) & set(b)) / 100 for a, b in zip(best, found, strict=True)])
    more, better = build_index(vectors, line, line, {"query": queries}, recall + (1 - recall) / 2)
    assert more.n_probe > least.n_probe
    assert better > recall


@needs_faiss
def test_an_index_that_misses_too_much_is_refused_with_advice() -> None:
    """Vectors without clusters, and queries from nowhere: no list has the best."""
    chance = np.random.default_rng(0)
    line = Line(chance.standard_normal((5_000, 32), np.float32))
    with pytest.raises(PolytempoError, match=r"less than 0\.98") as caught:
        build_index(line.vectors, line, line, {"query": chance.standard_normal((64, 32), np.float32)}, 0.98)
    assert "index_above to 5000" in caught.value.hint


@needs_faiss
def test_vectors_that_make_no_lists_are_refused_with_advice() -> None:
    """A threshold below what an index needs."""
    line = Line(np.ones((100, 4), np.float32))
    with pytest.raises(PolytempoError, match="at least 1024") as caught:
        build_index(line.vectors, line, line, {"query": np.ones((2, 4), np.float32)}, 0.98)
    assert "index_above" in caught.value.hint


def test_without_faiss_a_large_vocabulary_is_not_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is told what to install."""
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(PolytempoError, match="faiss-cpu is not installed") as caught:
        write_indexed(tmp_path / "bundle")
    assert "polytempo[index]" in caught.value.hint
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(("above", "recall"), [(-1, 0.98), (10, 0.0), (10, 1.01)])
def test_settings_that_mean_nothing_are_refused(above: int, recall: float) -> None:
    """A size and a share."""
    with pytest.raises(ValueError, match="not"):
        IndexSettings(above, recall)


def test_up_to_the_threshold_all_items_are_in_the_graph(tmp_path: Path) -> None:
    """A vocabulary of just as many."""
    manifest = write_recurrent(tmp_path / "bundle", index=IndexSettings(above=60))
    assert "index.faiss" not in manifest.files


@needs_faiss
def test_recall_on_real_histories_is_in_the_manifest(tmp_path: Path) -> None:
    """And what is served finds as much, with the same scores, parts and state as all products give."""
    sequences = made_up(40, 20)
    manifest = write_indexed(tmp_path / "bundle", histories=some_histories(sequences))
    assert manifest.metrics["index/recall@40"] >= 0.98
    served = load_bundle(tmp_path / "bundle").scorer
    net = large()
    specs = {name: menu(FEATURES, net.config.n_state)[name] for name in RECURRENT_INPUTS}
    exact = ModuleScorer(net, inputs=specs, n_state=net.config.n_state, space="vocabulary", parts=net.parts)
    rows = example_inputs(specs, n_rows=60, n_vocabulary=N_LARGE, seed=3)
    expected, found = exact.score(rows), served.score(rows)
    np.testing.assert_allclose(found["state"], expected["state"], rtol=1e-4, atol=1e-5)
    shared = 0
    for row in range(60):
        place = {item: at for at, item in enumerate(expected["items"][row].tolist())}
        for at, item in enumerate(found["items"][row].tolist()):
            if item in place:
                shared += 1
                np.testing.assert_allclose(found["scores"][row, at], expected["scores"][row, place[item]], rtol=1e-4)
                np.testing.assert_allclose(
                    found["parts"][row, at], expected["parts"][row, place[item]], rtol=1e-3, atol=1e-4
                )
    assert shared >= 0.97 * expected["items"].size
