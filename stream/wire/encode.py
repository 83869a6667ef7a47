"""What the worker writes for others: recommendations and dead letters, as JSON bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final

import msgspec

from stream.core.events import EventBatch
from stream.core.identity import rec_id, rec_ids
from stream.wire.messages import DeadLetter, Receipt, Recommendation, Source
from stream.wire.reasons import Rejected
from stream.wire.userkeys import UserKeys

__all__ = ["dead_letter", "encode_all", "encode_recommendations", "rec_id", "rec_ids", "receipt"]

_encode: Final = msgspec.json.Encoder().encode


def encode_all(recommendations: Iterable[Recommendation]) -> list[bytes]:
    """The values of the records on `recommendations`; each one's key is its `user_id`, as UTF-8."""
    return [_encode(recommendation) for recommendation in recommendations]


def encode_recommendations(
    batch: EventBatch,
    lists: Sequence[bytes],
    *,
    topic: str,
    partition: int,
    model: str,
    variant: str,
    activity_offset: int,
    items_offset: int,
) -> list[bytes]:
    """The values of the records that answer a batch of B events, in its order.

    They are what `encode_all` makes of `Recommendation`s with the same fields, put together from pieces.

    Args:
        batch: the events, all of this topic and partition.
        lists: (B,) the `items` of each as JSON, see `stream.wire.lists`.
        topic: input topic of the batch.
        partition: its partition there.
        model: name@version of the bundle.
        variant: the branch of the experiment of all these users.
        activity_offset: the view of item statistics that was used; -1 for none.
        items_offset: the catalogue that was used; -1 for none.

    Raises ValueError when there are not B lists.
    """
    users = list(map(_encode, batch.users))
    ids = rec_ids(topic, partition)
    tail = b',"model":%b,"variant":%b,"activity_offset":%d,"items_offset":%d,"source":{"topic":%b,"partition":%d' % (
        _encode(model),
        _encode(variant),
        activity_offset,
        items_offset,
        _encode(topic),
        partition,
    )
    return [
        b'{"rec_id":"%b","user_id":%b,"ts_ms":%d,"event_id":%b,"items":%b%b,"offset":%d}}'
        % (
            ids(offset).encode(),
            users[user],
            ts_ms,
            b"null" if event_id is None else _encode(event_id),
            items,
            tail,
            offset,
        )
        for offset, user, ts_ms, event_id, items in zip(
            batch.offset.tolist(), batch.user.tolist(), batch.ts_ms.tolist(), batch.event_ids, lists, strict=True
        )
    ]


def receipt(user_id: str, ts_ms: int, source: Source, keys: UserKeys) -> tuple[bytes, bytes]:
    """Key and value of the record on `forgotten` that answers a `forget`."""
    pseudonym = keys.pseudonym(user_id.encode()).hex()
    message = Receipt(
        receipt_id=rec_id(source.topic, source.partition, source.offset),
        user=pseudonym,
        key_id=keys.current,
        ts_ms=ts_ms,
        erased=["state"],
        source=source,
    )
    return f"{keys.current}:{pseudonym}".encode(), _encode(message)


def dead_letter(rejected: Rejected, topic: str, partition: int, limit_bytes: int = 64 * 1024) -> bytes:
    """The value of the record on `dead-letters` that says what was refused where, and why.

    Of key and value at most `limit_bytes` each are kept, as base64; their full lengths and the value's SHA-256 are
    always stated. The same refusal gives the same bytes.
    """
    record = rejected.record
    key, value, stamp_ms = record.key, record.value, record.timestamp
    return _encode(
        DeadLetter(
            reason=rejected.reason.value,
            detail=rejected.detail.encode(errors="backslashreplace").decode(),
            topic=topic,
            partition=partition,
            offset=record.offset,
            ts_ms=None if stamp_ms is None or stamp_ms < 0 else stamp_ms,
            key=None if key is None else key[:limit_bytes],
            key_bytes=None if key is None else len(key),
            value=None if value is None else value[:limit_bytes],
            value_bytes=None if value is None else len(value),
            value_sha256=None if value is None else sha256(value).hexdigest(),
        )
    )
