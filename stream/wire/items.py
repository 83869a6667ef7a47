"""Bytes of records on `items` -> items and removals, and what had to be refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from stream.wire.careful import check_flat, parse_object, shown, usable_value
from stream.wire.limits import Limits
from stream.wire.messages import Item
from stream.wire.reasons import Malformed, Reason, Record, Rejected

__all__ = ["DecodedItems", "decode_items"]

_read: Final = msgspec.json.Decoder(Item).decode


@dataclass(frozen=True, slots=True)
class DecodedItems:
    """What a batch of records on `items` held, in the order of the records."""

    items: list[tuple[str, Item | None]]
    """Item id and what is known of it now; None where the item was removed."""
    rejected: list[Rejected]


def decode_items(records: Sequence[Record], limits: Limits | None = None) -> DecodedItems:
    """Every record of one partition's batch; no content of a record makes this raise."""
    limits = limits or Limits()
    items: list[tuple[str, Item | None]] = []
    rejected: list[Rejected] = []
    for record in records:
        try:
            items.append(_decode(record, limits))
        except Malformed as fault:
            rejected.append(Rejected(record, fault.reason, fault.detail))
    return DecodedItems(items, rejected)


def _decode(record: Record, limits: Limits) -> tuple[str, Item | None]:
    item_id = _id(record.key, limits)
    if record.value is None:
        return item_id, None
    value = usable_value(record.value, limits)
    document = parse_object(value)
    try:
        item = _read(value)
    except msgspec.ValidationError as error:
        if isinstance(document.get("attributes"), dict) and "$.attributes" in str(error):
            raise Malformed(Reason.BAD_CONTEXT, str(error)) from None
        raise Malformed(Reason.WRONG_TYPE, str(error)) from None
    except Exception as error:  # noqa: BLE001 - a parser's surprise must not stop the worker either
        raise Malformed(Reason.INVALID_JSON, str(error)) from None
    if item.item_id is not None and item.item_id != item_id:
        raise Malformed(Reason.KEY_MISMATCH, f"the key is {shown(item_id)}, item_id {shown(item.item_id)}")
    check_flat("attributes", item.attributes, limits)
    return item_id, item


def _id(key: bytes | None, limits: Limits) -> str:
    if key is None:
        raise Malformed(Reason.NULL_KEY, "the record has no key, which should be the item's id")
    try:
        item_id = key.decode()
    except UnicodeDecodeError as error:
        raise Malformed(Reason.INVALID_UTF8, f"the key, byte {error.start}: {error.reason}") from None
    if not item_id:
        raise Malformed(Reason.EMPTY_ID, "the key, which should be the item's id, is empty")
    if len(item_id) > limits.max_id_chars:
        raise Malformed(
            Reason.ID_TOO_LONG, f"the key has {len(item_id)} characters, at most {limits.max_id_chars} are allowed"
        )
    if "\0" in item_id:
        raise Malformed(Reason.INVALID_TEXT, "the key holds NUL")
    return item_id
