"""Nodes of an ONNX graph, and fields to be written, for who takes graphs apart without the `onnx` package."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from stream.bundle.graph import Field, fields

__all__ = [
    "FUNCTION",
    "GRAPH",
    "INITIALIZER",
    "INPUT",
    "NODE",
    "OUTPUT",
    "VALUE_INFO",
    "Node",
    "bytes_field",
    "first_text",
    "node_of",
]

GRAPH: Final = 7
FUNCTION: Final = 25
"""Fields of a model."""
NODE, INITIALIZER, INPUT, OUTPUT, VALUE_INFO = 1, 5, 11, 12, 13
"""Fields of a graph."""


@dataclass(slots=True)
class Node:
    """One operator.

    Attributes:
        kind, domain: what it does.
        inputs, outputs: names of values.
        numbers: attributes that are integers.
        has_graphs: whether graphs lie within, which may read values that are not among the inputs.
    """

    kind: str = ""
    domain: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)
    has_graphs: bool = False


def node_of(message: Field) -> Node:
    """The operator in a field `NODE` of a graph."""
    node = Node()
    for each in fields(message.message):
        if each.number == 1:
            node.inputs.append(_text(each))
        elif each.number == 2:
            node.outputs.append(_text(each))
        elif each.number == 4:
            node.kind = _text(each)
        elif each.number == 7:
            node.domain = _text(each)
        elif each.number == 5:
            parts = list(fields(each.message))
            node.has_graphs |= any(part.number in {6, 11} for part in parts)
            name = next((_text(part) for part in parts if part.number == 1), "")
            node.numbers[name] = next((_signed(part.integer) for part in parts if part.number == 3), 0)
    return node


def first_text(message: memoryview, number: int) -> str:
    """The first text in a field of this number; empty for none."""
    return next((_text(each) for each in fields(message) if each.number == number), "")


def bytes_field(number: int, content: bytes) -> bytes:
    """A field that holds bytes, a text or a message."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _text(text: Field) -> str:
    return bytes(text.message).decode("utf-8", errors="replace")


def _signed(number: int | None) -> int:
    value = 0 if number is None else number
    return value - (1 << 64) if value >= 1 << 63 else value


def _varint(value: int) -> bytes:
    digits = bytearray()
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])
