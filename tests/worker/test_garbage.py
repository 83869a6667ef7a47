"""A worker that has started keeps the collector away from what stays."""

from __future__ import annotations

import gc

from stream.worker.garbage import settle


def test_what_is_there_is_collected_no_more_and_what_comes_is() -> None:
    """A cycle made afterwards still goes."""
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    try:
        settle()
        assert gc.get_freeze_count() > frozen
        cycle: list[object] = []
        cycle.append(cycle)
        del cycle
        assert gc.collect() >= 1
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
