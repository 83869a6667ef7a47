"""A short round of each target, and what earlier rounds have found."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from random import Random

import numpy as np
import pytest

from stream.bundle.errors import BundleError
from stream.bundle.experiment import is_experiment, read_experiment
from stream.bundle.parity import read_parity
from stream.core.features import TensorSpec
from stream.core.statistics import StatisticsSpec
from stream.worker.follower import read_snapshot
from tests.fuzz.mutate import mutated
from tests.fuzz.targets import TARGETS

N_INPUTS = {
    "decode": 2000,
    "activity": 500,
    "items": 3000,
    "bundle": 15,
    "state": 150,
    "snapshot": 100,
    "experiment": 500,
}


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_almost_good_is_taken_or_refused_in_order(name: str) -> None:
    target, rng = TARGETS[name], Random(1)
    seeds = target.seeds()
    for seed in seeds:
        target.check(seed)
    for _ in range(N_INPUTS[name]):
        target.check(mutated(seeds, rng))


def _archive(header: bytes) -> bytes:
    """A NumPy archive whose only array has this header."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("in.words.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    return file.getvalue()


def _of_another_version() -> bytes:
    """An archive that says it needs a zip of version 13.2."""
    file = io.BytesIO()
    np.savez(file, **{"in.words": np.zeros(3)})
    content = bytearray(file.getvalue())
    at = content.index(b"PK\x01\x02")
    content[at + 6] = 132
    return bytes(content)


FOUND = {
    "a header without its end": _archive(b"{'descr': '<f4', 'fortran_order': False, 'shape': ((3,), \n"),
    "a zip of another version": _of_another_version(),
}


@pytest.mark.parametrize("what", FOUND)
def test_what_fuzzing_has_found_is_an_error_that_callers_expect(what: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_snapshot(io.BytesIO(FOUND[what]), StatisticsSpec())
    with pytest.raises(ValueError, match="NumPy archive"):
        read_parity(FOUND[what], {"words": TensorSpec(("B",), "float32")}, {})


@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_an_experiment_that_is_nested_without_end_is_refused(suffix: str, tmp_path: Path) -> None:
    """Found by fuzzing: RecursionError."""
    file = tmp_path / f"experiment{suffix}"
    file.write_text(("name = " if suffix == ".toml" else "") + "[" * 5000)
    with pytest.raises(BundleError, match="no experiment"):
        read_experiment(file)
    is_experiment(file)
