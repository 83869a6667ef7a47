"""How fast one process joins: processor time of decoding, joining and encoding, without a broker.

python -m tests.bench.feedback
"""

from __future__ import annotations

import json
import time
from random import Random

from stream.core.identity import rec_id
from stream.feedback.codec import FeedbackCodec
from stream.feedback.joiner import Joiner, JoinRules
from tests.wire.records import FakeRecord

__all__ = ["main"]

N_EVENTS, CHUNK = 100_000, 1_000
START_MS = 1_700_000_000_000


def main() -> float:
    """Events, each with its recommendation of ten items, a second of processor; printed as one line of JSON."""
    rng, rules = Random(0), JoinRules()
    events, answers = [], []
    for offset in range(N_EVENTS):
        user, ts_ms = f"user-{rng.randrange(5_000)}", START_MS + 100 * offset
        event = {"user_id": user, "item_id": f"i{rng.randrange(300)}", "event_type": "click", "ts_ms": ts_ms}
        events.append(FakeRecord(user.encode(), json.dumps(event).encode(), offset, ts_ms))
        answer = {
            "rec_id": rec_id("events", 0, offset),
            "user_id": user,
            "ts_ms": ts_ms,
            "event_id": None,
            "items": [
                {"item_id": f"i{rng.randrange(300)}", "score": 1.5, "reasons": ["popular:all:1h"]} for _ in range(10)
            ],
            "model": "m@1",
            "variant": "a",
            "activity_offset": 5,
            "items_offset": 5,
            "source": {"topic": "events", "partition": 0, "offset": offset},
        }
        answers.append(FakeRecord(user.encode(), json.dumps(answer).encode(), offset))
    joiner, codec, n_open, n_told = Joiner(rules), FeedbackCodec("events", 0, rules), 0, 0
    began_s = time.process_time()
    for first in range(0, N_EVENTS, CHUNK):
        joiner.events(codec.events(events[first : first + CHUNK]))
        joiner.recommendations(codec.recommendations(answers[first : first + CHUNK]))
        n_told += len(codec.told(joiner.told()))
        n_open = max(n_open, joiner.n_open)
    rate = N_EVENTS / (time.process_time() - began_s)
    print(json.dumps({"events_per_s": round(rate), "most_open": n_open, "messages": n_told}))
    return rate


if __name__ == "__main__":
    main()
