"""Graphs that end by choosing the best of a whole vocabulary: what they choose from, without the choosing.

Runtimes keep a heap for `TopK`, and for a vocabulary of some thousand items it costs many times what the product costs
that gives the scores. `stream.core.best` finds the same items, so a worker cuts such an ending off. Only this one form:

    ... --> all_scores --> TopK(largest, sorted, last axis) --> scores
                              '--> + 1 --> items

Where anything else reads what `TopK` gives, or anything looks unusual, the graph stays whole. As everywhere in this
package the `onnx` package is not needed: fields of the file are left out or added, none is changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stream.bundle.editing import FUNCTION, GRAPH, INITIALIZER, NODE, OUTPUT, Node, bytes_field, first_text, node_of
from stream.bundle.graph import Field, fields

__all__ = ["Cut", "cut_ending"]

_INT64, _FLOAT = 7, 1


@dataclass(frozen=True, slots=True)
class Cut:
    """A graph without its ending.

    Attributes:
        model: the serialized model; its outputs are those of before but `items` and `scores`, then `all_scores`.
        all_scores: name of the (B, V) scores that the best are to be chosen from.
        n_best: how many are chosen.
    """

    model: bytes
    all_scores: str
    n_best: int


def cut_ending(content: bytes) -> Cut | None:
    """The graph without the choice of the best, None where it does not end like that.

    Args:
        content: a model that `stream.bundle.graph.inspect_graph` has found whole.
    """
    view = memoryview(content)
    model = list(fields(view))
    graphs = [each for each in model if each.number == GRAPH]
    if len(graphs) != 1 or any(each.number == FUNCTION for each in model):
        return None
    inner = list(fields(graphs[0].message))
    nodes = [(each, node_of(each)) for each in inner if each.number == NODE]
    outputs = {first_text(each.message, 1): each for each in inner if each.number == OUTPUT}
    if "items" not in outputs or "scores" not in outputs or any(node.has_graphs for _, node in nodes):
        return None
    top = _only([(at, node) for at, node in nodes if "scores" in node.outputs])
    plus = _only([(at, node) for at, node in nodes if "items" in node.outputs])
    if top is None or plus is None or not _chooses(top[1]) or (plus[1].kind, plus[1].domain) != ("Add", ""):
        return None
    places = top[1].outputs[1]
    others = {name for at, node in nodes if at is not plus[0] for name in node.inputs}
    if {"items", "scores", places} & others or places in outputs or plus[1].outputs != ["items"]:
        return None
    constants = {first_text(each.message, 8): _single(each) for each in inner if each.number == INITIALIZER}
    added = [constants.get(name) for name in plus[1].inputs if name != places]
    all_scores, n_best = top[1].inputs[0], constants.get(top[1].inputs[1])
    made = {name for _, node in nodes for name in node.outputs}
    if len(plus[1].inputs) != 2 or added != [1] or n_best is None or all_scores not in made - outputs.keys():
        return None
    gone = (top[0], plus[0], outputs["items"], outputs["scores"])
    kept = b"".join(bytes(each.whole) for each in inner if not any(each is other for other in gone))
    graph = kept + bytes_field(OUTPUT, _float_output(all_scores))
    parts = [bytes_field(GRAPH, graph) if each is graphs[0] else bytes(each.whole) for each in model]
    return Cut(b"".join(parts), all_scores, n_best)


def _chooses(node: Node) -> bool:
    numbers = {"axis": -1, "largest": 1, "sorted": 1, **node.numbers}
    expected = numbers["axis"] in {-1, 1} and numbers["largest"] == 1 and numbers["sorted"] == 1
    shapes = len(node.inputs) == 2 and len(node.outputs) == 2 and node.outputs[0] == "scores"
    return (node.kind, node.domain) == ("TopK", "") and expected and shapes


def _only(found: Sequence[tuple[Field, Node]]) -> tuple[Field, Node] | None:
    return found[0] if len(found) == 1 else None


def _single(tensor: Field) -> int | None:
    """The number in a tensor of a single int64; None for any other."""
    n_values, kind, value = 1, 0, b""
    for each in fields(tensor.message):
        if each.number == 1:
            n_values *= -1 if each.integer is None else each.integer
        elif each.number == 2:
            kind = each.integer or 0
        elif each.number == 9:
            value = bytes(each.message)
    return int.from_bytes(value, "little", signed=True) if (n_values, kind, len(value)) == (1, _INT64, 8) else None


def _float_output(name: str) -> bytes:
    """A ValueInfoProto of float32 (?, ?); the runtime infers more."""
    free = bytes_field(1, b"")
    tensor = bytes([1 << 3, _FLOAT]) + bytes_field(2, free + free)
    return bytes_field(1, name.encode()) + bytes_field(2, bytes_field(1, tensor))
