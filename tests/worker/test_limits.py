"""On each limit an event is answered, one beyond it is a dead letter, and nothing is lost on the way."""

from __future__ import annotations

import json
import time
from typing import Any

from stream.wire.encode import rec_id
from stream.wire.limits import Limits
from stream.wire.reasons import Reason
from tests.wire.limits import boundaries, padded
from tests.worker.bundles import bundle
from tests.worker.cluster import Cluster, keyed


async def test_every_boundary_goes_through_topics_and_worker(cluster: Cluster) -> None:
    """Events of 64 KiB, ids of 256 characters, 64 context fields, lists of 1,000 items, and each with one more; the
    same of descriptions of items."""
    limits, ts_ms = Limits(), int(time.time() * 1000) - 60_000
    worker = cluster.worker(bundle("ranker"))
    await worker.ready()
    cases: list[tuple[bytes, bytes, Reason | None]] = []
    for changes, reason in boundaries():
        event = {"user_id": "u1", "item_id": "i1", "event_type": "click", "ts_ms": ts_ms, **changes}
        key, value = keyed(event)
        assert key is not None
        assert value is not None
        cases.append((key, value, reason))
    small = {"user_id": "u1", "item_id": "i1", "event_type": "click", "ts_ms": ts_ms}
    for more, too_large in ((0, None), (1, Reason.TOO_LARGE)):
        cases.append((b"u1", padded(small, limits.max_bytes + more), too_large))
    places = await cluster.send([(key, value) for key, value, _ in cases])
    items: list[tuple[bytes, dict[str, Any], Reason | None]] = []
    for more in (0, 1):
        fields = {str(field): field for field in range(limits.max_context_fields + more)}
        items += [
            (b"many", {"attributes": fields}, Reason.BAD_CONTEXT if more else None),
            (
                b"long",
                {"attributes": {"a": "x" * (limits.max_context_chars + more)}},
                Reason.BAD_CONTEXT if more else None,
            ),
            (b"i" * (limits.max_id_chars + more), {"title": "t"}, Reason.ID_TOO_LONG if more else None),
        ]
    await cluster.send([(key, json.dumps(value).encode()) for key, value, _ in items], cluster.names.items)
    await cluster.send([(b"big", padded({"title": "t"}, limits.max_bytes + 1))], cluster.names.items)
    await cluster.caught_up()

    answered = {each["rec_id"] for each in await cluster.recommendations()}
    letters = await cluster.dead_letters()
    while sum(each["topic"] == cluster.names.items for each in letters) < 4:
        letters = await cluster.dead_letters()
    said = {(each["partition"], each["offset"]): each for each in letters if each["topic"] == cluster.names.events}
    for place, (_, value, reason) in zip(places, cases, strict=True):
        assert (rec_id(cluster.names.events, *place) in answered) == (reason is None), value[:200]
        assert (said[place]["reason"] if place in said else None) == reason, value[:200]
    assert len(answered) + len(said) == len(cases)
    largest = said[places[-1]]
    assert largest["value_bytes"] == limits.max_bytes + 1
    of_items = sorted(each["reason"] for each in letters if each["topic"] == cluster.names.items)
    assert of_items == ["bad_context", "bad_context", "id_too_long", "too_large"]
    assert (await worker.stopped())["records"] == len(cases)
