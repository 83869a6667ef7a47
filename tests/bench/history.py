"""What a worker would have left behind of events that it answered before: states, and item activity as messages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stream.bundle.load import load_bundle
from stream.core.state import StateSpec
from stream.core.statistics import ItemStatistics
from stream.wire.activity import encode_activity
from tests.bench.path_events import Pair
from tests.bench.peer_job import Record, processor_of

__all__ = ["History", "history_of"]


@dataclass(frozen=True, slots=True)
class History:
    """What was left behind.

    Attributes:
        spec: of the states.
        states: by key of the record.
        activity: messages of the topic of item activity, in their order.
    """

    spec: StateSpec
    states: dict[bytes, bytes | None]
    activity: list[bytes]


def history_of(bundle: Path, pairs: list[Pair], n_batch: int = 256) -> History:
    """Answer the events, in batches of `n_batch`."""
    loaded = load_bundle(bundle)
    view = ItemStatistics(loaded.features.statistics)
    processor = processor_of(loaded, view)
    left = History(processor.state_spec, {}, [])
    for first in range(0, len(pairs), n_batch):
        chunk = pairs[first : first + n_batch]
        output = processor.process(
            [Record(first + row, None, key, value) for row, (key, value) in enumerate(chunk)],
            lambda keys: [left.states.get(key) for key in keys],
            topic="history",
            partition=0,
            covers=(first, first + len(chunk) - 1),
        )
        left.states.update(output.writes)
        if output.activity is not None:
            left.activity.append(encode_activity(output.activity))
            view.apply(output.activity)
    return left
