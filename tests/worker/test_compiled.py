"""Nothing is compiled in the middle of a stream: warming up has met every form of input."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest

from stream.bundle.service import Arm
from stream.core import candidates, catalogue, context, fold, ranking, tally
from stream.core.distributions import Binned
from stream.core.seam import Policy
from stream.core.statistics import ItemStatistics, counting, listing
from stream.worker.processor import Processor
from tests.bundle.models import FEATURES, FakeRanker, ranker

KERNELS = {
    "fold": fold._fold,
    "assemble": candidates.assemble,
    "context": context._count,
    "rank": ranking._rank,
    "sources": ranking._sources_of,
    "count": counting.count,
    "derive": listing.derive,
    "lookup": catalogue._lookup,
    "insert": catalogue._insert,
    "tally": tally._count,
}


KNOWN = {
    name: Binned((0.0, 1.0), (0.5, 0.25, 0.25))
    for name in ("score", "candidate:age", "context:session")  # each goes through compiled code in its own way
}


@dataclass
class FakeBundle:
    """A bundle whose model is NumPy."""

    features = FEATURES
    scorer = FakeRanker(ranker())
    vocabulary: tuple[str, ...] = ()
    reference = "fake@1"
    tag = 7
    parts: tuple[str, ...] = ()
    retriever = None
    distributions = KNOWN


@dataclass
class Record:
    """A record as the consumer hands it over."""

    offset: int
    key: bytes
    value: bytes
    timestamp: int | None = None


def records(first: int, n: int, n_users: int) -> list[Record]:
    return [
        Record(
            first + row,
            f"u{row % n_users}".encode(),
            json.dumps(
                {
                    "user_id": f"u{row % n_users}",
                    "item_id": f"i{row % 7}",
                    "event_type": "click",
                    "ts_ms": 1_600_000_000_000 + 1000 * (first + row),
                }
            ).encode(),
        )
        for row in range(n)
    ]


@pytest.mark.parametrize(("n", "n_users"), [(1, 1), (3, 1), (2, 2), (40, 9)])
def test_a_batch_of_any_size_runs_code_that_warming_up_compiled(n: int, n_users: int) -> None:
    """One event, one user with several, many of many: the compiled code has no new signature afterwards."""
    processor = Processor(
        [Arm("default", FakeBundle(), Policy())],  # type: ignore[arg-type]  # a list would do as well as the tuple
        ItemStatistics(FEATURES.statistics),
    )
    processor.warm_up()
    before = {name: len(kernel.signatures) for name, kernel in KERNELS.items()}
    stored: dict[bytes, bytes | None] = {}
    for first in (0, n):
        output = processor.process(
            records(first, n, n_users),
            lambda keys: [stored.get(key) for key in keys],
            topic="events",
            partition=0,
            covers=(first, first + n - 1),
        )
        stored.update(output.writes)
        assert output.activity is not None
        processor.view.apply(output.activity)
        processor.view.refresh()
    assert np.all([raw is not None for raw in stored.values()])
    assert {name: len(kernel.signatures) for name, kernel in KERNELS.items()} == before
