"""Looks into an ONNX file before ONNX Runtime does, without depending on the `onnx` package.

An ONNX file may name other files to take its weights from, and operators of libraries to be loaded. A bundle does
neither. Finding out takes a walk over the protocol-buffer wire format of which only a few field numbers matter
(ONNX's onnx.proto, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto); weights are skipped, not copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

__all__ = ["STANDARD_DOMAINS", "Field", "GraphFacts", "fields", "inspect_graph"]

STANDARD_DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml"})

_MAX_DEPTH: Final = 32  # of graphs within graphs: real models have two or three
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# What may be found below each kind of message: field number -> kind. "domain" and "external" are what we look for.
_CHILDREN: Final[dict[str, dict[int, str]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_NODE_TYPE, _NODE_DOMAIN = 4, 7
_FUNCTION_DOMAIN = 10
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14


@dataclass(slots=True)
class GraphFacts:
    """What a model file asks for beyond itself.

    Attributes:
        operators: `domain::type` of operators outside the standard and the file's own functions.
        external: locations of tensors that lie in other files ("?" where the location is not given).
    """

    operators: set[str] = field(default_factory=set)
    external: set[str] = field(default_factory=set)


def inspect_graph(content: bytes) -> GraphFacts:
    """Walk a serialized ONNX model.

    Raises:
        ValueError: the bytes are not a whole protocol-buffer message, hold no graph, or are nested absurdly deep.
    """
    view = memoryview(content)
    operators: list[tuple[str, str]] = []
    own_domains: set[str] = set()
    facts = GraphFacts()
    has_graph = False
    stack = [("model", view, 0)]
    while stack:
        kind, message, depth = stack.pop()
        if depth > _MAX_DEPTH:
            raise ValueError(f"its graphs are nested more than {_MAX_DEPTH} deep")
        children = _CHILDREN[kind]
        texts: dict[int, str] = {}
        for each in fields(message):
            number = each.number
            if number in children and each.is_message:
                has_graph |= kind == "model" and number == 7
                stack.append((children[number], each.message, depth + 1))
            elif kind == "tensor" and (
                number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and each.integer == 1)
            ):
                facts.external.add(_location(message))
            elif kind in {"node", "function"} and each.is_message and number not in {1, 2}:
                texts[number] = _text(each.message)
        if kind == "node":
            operators.append((texts.get(_NODE_DOMAIN, ""), texts.get(_NODE_TYPE, "")))
        elif kind == "function":
            own_domains.add(texts.get(_FUNCTION_DOMAIN, ""))
    if not has_graph:
        raise ValueError("it holds no graph")
    known = STANDARD_DOMAINS | own_domains
    facts.operators = {f"{domain}::{name}" for domain, name in operators if domain not in known}
    return facts


def _location(tensor: memoryview) -> str:
    """Where a tensor's data lie, from its key-value pairs."""
    for entry in fields(tensor):
        if entry.number == _TENSOR_EXTERNAL and entry.is_message:
            pair = {each.number: _text(each.message) for each in fields(entry.message) if each.is_message}
            if pair.get(1) == "location":
                return pair.get(2, "?")
    return "?"


def _text(value: memoryview) -> str:
    return bytes(value).decode("utf-8", errors="replace")


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """One field of a message.

    Attributes:
        number: of the field.
        whole: its bytes, the key in front of it included.
        message: what it holds; empty for numbers.
        integer: what it holds, where that is an integer; None otherwise.
        is_message: whether it holds bytes: a text, or a message within the message.
    """

    number: int
    whole: memoryview
    message: memoryview
    integer: int | None
    is_message: bool


def fields(message: memoryview) -> Iterator[Field]:
    """The fields of one message, in order.

    Raises:
        ValueError: it is not one, or not whole.
    """
    at, end, nothing = 0, len(message), message[:0]
    while at < end:
        began = at
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise ValueError("it is not an ONNX file: field number 0")
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield Field(number, message[began:at], nothing, value, is_message=False)
            continue
        if wire == _BYTES:
            size, at = _varint(message, at)
        elif wire in {_FIXED64, _FIXED32}:
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"it is not an ONNX file: wire type {wire}")
        if size > end - at:
            raise ValueError(f"it is cut off: a field needs {size} bytes where {end - at} are left")
        whole = message[began : at + size]
        yield Field(number, whole, message[at : at + size] if wire == _BYTES else nothing, None, wire == _BYTES)
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """An integer of seven bits a byte, at most ten bytes, and the position behind it."""
    value = 0
    for n_read in range(10):
        if at + n_read >= len(message):
            raise ValueError("it is cut off inside a number")
        byte = message[at + n_read]
        value |= (byte & 0x7F) << (7 * n_read)
        if byte < 0x80:
            return value, at + n_read + 1
    raise ValueError("it is not an ONNX file: a number of more than ten bytes")
