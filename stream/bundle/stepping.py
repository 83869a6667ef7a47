"""Graphs of recurrent models: what makes the next state, without what is said of it.

Where a user has several events in a batch, each waits for the state that the one before leaves. What the model says of
a state - a product with the whole vocabulary, most of its time - nobody waits for: it can be had for all at once.
"""

from __future__ import annotations

from stream.bundle.editing import GRAPH, INITIALIZER, NODE, OUTPUT, VALUE_INFO, bytes_field, first_text, node_of
from stream.bundle.graph import fields

__all__ = ["only_output"]


def only_output(content: bytes, name: str) -> bytes | None:
    """The model with one output, and only what leads to it; None where that cannot be told or is all there is.

    Args:
        content: a model that `stream.bundle.graph.inspect_graph` has found whole.
    """
    model = list(fields(memoryview(content)))
    graphs = [each for each in model if each.number == GRAPH]
    if len(graphs) != 1:
        return None
    inner = list(fields(graphs[0].message))
    nodes = [(at, node_of(each)) for at, each in enumerate(inner) if each.number == NODE]
    if any(node.has_graphs for _, node in nodes):
        return None
    wanted, dropped = {name}, set[int]()
    for at, node in reversed(nodes):  # a graph's nodes stand in the order in which they can be computed
        if wanted.isdisjoint(node.outputs):
            dropped.add(at)
        else:
            wanted.update(node.inputs)
    if not dropped or not any(name in node.outputs for _, node in nodes):
        return None
    for at, each in enumerate(inner):
        if (
            (each.number == OUTPUT and first_text(each.message, 1) != name)
            or (each.number == INITIALIZER and first_text(each.message, 8) not in wanted)
            or each.number == VALUE_INFO
        ):
            dropped.add(at)
    graph = b"".join(bytes(each.whole) for at, each in enumerate(inner) if at not in dropped)
    return b"".join(bytes_field(GRAPH, graph) if each is graphs[0] else bytes(each.whole) for each in model)
