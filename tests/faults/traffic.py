"""Events without end, for rounds of trouble: what good producers send, and what bad ones do."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from itertools import count, islice
from typing import Any

from tests.wire.malformed import KINDS, make
from tests.worker.cluster import KeyAndValue, keyed

__all__ = ["a_year_ahead", "duplicated", "from_a_hot_user", "poisoned", "traffic"]

_N_ITEMS = 100  # fewer than a row has slots: which neighbour makes room depends on how partitions interleave
_SMALL_KINDS = [kind for kind in KINDS if kind not in ("a string of 1 MB", "nested without end")]
_YEAR_MS = 365 * 24 * 3_600_000


def traffic(n_users: int, seed: int) -> Iterator[KeyAndValue]:
    """Events without end, one each 200 ms: some late, some sent twice, 1 in 50 broken."""
    rng = random.Random(seed)
    start_ms = int(time.time() * 1000) - 24 * 3_600_000
    sent: list[str] = []
    for number in count():
        ts_ms = start_ms + 200 * number - rng.randrange(900_000) * (rng.random() < 0.05)
        user = f"user-{min(int(rng.expovariate(3 / n_users)), n_users - 1)}"
        chance = rng.random()
        if chance < 0.02:
            yield make(rng.choice(_SMALL_KINDS), rng, ts_ms)
            continue
        event: dict[str, Any] = {"user_id": user, "event_type": "request", "ts_ms": ts_ms}
        if chance < 0.03:
            yield keyed({**event, "n": rng.randrange(1, 20)})
            continue
        if chance < 0.033:
            yield keyed({**event, "event_type": "forget"})
            continue
        event["event_type"] = rng.choices(["view", "click", "purchase", "dislike", "return"], [3, 9, 2, 1, 1])[0]
        event["item_id"] = f"item-{int(rng.paretovariate(0.6)) % _N_ITEMS}"
        event["value"] = rng.uniform(0.1, 99)
        event["context"] = {"device": rng.choice(["1", "3"])}
        if chance < 0.5:
            event["event_id"] = f"event-{number}"
            sent.append(json.dumps(event))
        if chance < 0.06 and len(sent) > 3:  # a producer that did not hear the acknowledgement
            event = json.loads(sent[-rng.randrange(1, 4)])
        yield keyed(event)


def poisoned(n_users: int, seed: int) -> Iterator[KeyAndValue]:
    """A third of it is malformed, of every kind there is; the largest ones are rare."""
    rng = random.Random(seed)
    kinds = _SMALL_KINDS * 20 + ["a string of 1 MB", "nested without end"]
    for good in traffic(n_users, seed):
        if rng.random() < 0.33:
            yield make(rng.choice(kinds), rng, int(time.time() * 1000))
        yield good


def from_a_hot_user(n_users: int, seed: int) -> Iterator[KeyAndValue]:
    """Three events of ten are one user's."""
    rng = random.Random(seed)
    for key, value in traffic(n_users, seed):
        if rng.random() < 0.3:
            try:
                event = json.loads(value or b"")
            except ValueError:
                event = None
            if isinstance(event, dict) and event.get("item_id") and str(event.get("user_id")).startswith("user-"):
                yield keyed({**event, "user_id": "user-hot"})
                continue
        yield key, value


def duplicated(n_users: int, seed: int) -> Iterator[KeyAndValue]:
    """A fifth is sent twice, and each run of 200 in any order."""
    rng = random.Random(seed)
    plain = traffic(n_users, seed)
    while True:
        chunk = list(islice(plain, 200))
        chunk += rng.sample(chunk, 40)
        rng.shuffle(chunk)
        yield from chunk


def a_year_ahead(n_users: int, seed: int) -> Iterator[KeyAndValue]:
    """One in twenty comes from a clock that is a year ahead; one in twenty from one that is two minutes ahead."""
    rng = random.Random(seed)
    for number, (key, value) in enumerate(traffic(n_users, seed)):
        ahead_ms = rng.choice([_YEAR_MS, 120_000]) if rng.random() < 0.1 else 0
        if ahead_ms > 0:
            ts_ms = int(time.time() * 1000) + ahead_ms
            user = f"user-{rng.randrange(n_users)}"
            yield keyed({"user_id": user, "event_type": "click", "item_id": f"item-{number % 100}", "ts_ms": ts_ms})
        yield key, value
