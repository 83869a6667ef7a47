"""The command line with a model that fails on chosen events: `python -m tests.faults.raising worker ...`."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Mapping
from typing import Any, Final

from numpy.typing import NDArray

from stream.bundle import scorer
from stream.cli.main import main

_ONE_IN: Final = 300


def fail_on_some() -> None:
    """Let scorers raise where one row of the context's features has a certain checksum."""
    score = scorer.OnnxScorer.score

    def score_most(self: Any, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        rows = inputs["context_features"]
        if any(zlib.crc32(row.tobytes()) % _ONE_IN == 7 for row in rows) and len(rows[0]) > 0:
            raise RuntimeError("indices element out of data bounds")
        return score(self, inputs)

    scorer.OnnxScorer.score = score_most  # type: ignore[method-assign]


if __name__ == "__main__":
    fail_on_some()
    sys.exit(main(sys.argv[1:]))
