"""A graph that ends by choosing the best loses that ending, and gives the same items without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from stream.bundle.ending import cut_ending
from stream.bundle.load import load_bundle
from tests.bundle.models import N_VOCABULARY

N, K = 50, 7


def a_model(change: Callable[[onnx.GraphProto], None] = lambda _: None) -> bytes:
    """x -> x W -> the best seven of fifty."""
    weights = np.random.default_rng(0).standard_normal((3, N)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "weights"], ["all"]),
            helper.make_node("TopK", ["all", "k"], ["scores", "places"], axis=-1),
            helper.make_node("Add", ["places", "one"], ["items"]),
            helper.make_node("Neg", ["x"], ["next_state"]),
        ],
        "best",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 3])],
        [
            helper.make_tensor_value_info("items", TensorProto.INT64, ["B", K]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["B", K]),
            helper.make_tensor_value_info("next_state", TensorProto.FLOAT, ["B", 3]),
        ],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array([K]), "k"),
            numpy_helper.from_array(np.array(1), "one"),
        ],
    )
    change(graph)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return bytes(model.SerializeToString())


def results(model: bytes, x: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"x": x}), strict=True))


def test_the_ending_is_cut_off_and_the_rest_stays() -> None:
    x = np.random.default_rng(1).standard_normal((4, 3)).astype(np.float32)
    whole, cut = a_model(), cut_ending(a_model())
    assert cut is not None
    assert (cut.all_scores, cut.n_best) == ("all", K)
    onnx.checker.check_model(onnx.load_from_string(cut.model), full_check=True)
    before, after = results(whole, x), results(cut.model, x)
    assert list(after) == ["next_state", "all"]
    np.testing.assert_array_equal(after["next_state"], before["next_state"])
    best = np.argsort(-after["all"], axis=1, kind="stable")[:, :K]
    np.testing.assert_array_equal(best + 1, before["items"])


def node(graph: onnx.GraphProto, number: int) -> onnx.NodeProto:
    return graph.node[number]


def also_gives_all(graph: onnx.GraphProto) -> None:
    graph.output.append(helper.make_tensor_value_info("all", TensorProto.FLOAT, ["B", N]))


def counts_from_two(graph: onnx.GraphProto) -> None:
    graph.initializer[2].CopyFrom(numpy_helper.from_array(np.array(2), "one"))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda g: g.node.append(helper.make_node("Neg", ["places"], ["parts"])), id="places are used"),
        pytest.param(lambda g: g.node.append(helper.make_node("Neg", ["scores"], ["parts"])), id="scores are used"),
        pytest.param(lambda g: g.node.append(helper.make_node("Neg", ["items"], ["parts"])), id="items are used"),
        pytest.param(lambda g: node(g, 1).attribute.append(helper.make_attribute("largest", 0)), id="the smallest"),
        pytest.param(lambda g: node(g, 1).attribute.append(helper.make_attribute("sorted", 0)), id="in any order"),
        pytest.param(lambda g: node(g, 1).attribute[0].CopyFrom(helper.make_attribute("axis", 0)), id="another axis"),
        pytest.param(lambda g: setattr(node(g, 1), "domain", "mine"), id="another operator of that name"),
        pytest.param(lambda g: setattr(node(g, 2), "op_type", "Sub"), id="other numbers"),
        pytest.param(counts_from_two, id="items that count from 2"),
        pytest.param(lambda g: node(g, 1).input.__setitem__(1, "x"), id="a number of items that is no constant"),
        pytest.param(lambda g: node(g, 1).input.__setitem__(0, "x"), id="nothing before it"),
        pytest.param(also_gives_all, id="all scores are an output already"),
        pytest.param(lambda g: g.output.remove(g.output[0]), id="no items"),
        pytest.param(lambda g: g.node.remove(g.node[2]), id="items from nowhere"),
    ],
)
def test_a_graph_that_ends_in_any_other_way_stays_whole(change: Callable[[onnx.GraphProto], None]) -> None:
    assert cut_ending(a_model(change)) is None


def test_a_bundle_chooses_outside_its_graph(bundles: Path) -> None:
    """`recurrent` ends like that; its golden outputs came from PyTorch's own choice."""
    bundle = load_bundle(bundles / "recurrent")
    assert cut_ending((bundles / "recurrent" / "model.onnx").read_bytes()) is not None
    outputs = bundle.scorer.score(bundle.parity.inputs)
    np.testing.assert_array_equal(outputs["items"], bundle.parity.outputs["items"])
    assert outputs["items"].max() <= N_VOCABULARY
