"""What is fuzzed: for each target good inputs to start from, and what must hold whatever the bytes are.

A target raises nothing but what its docstring allows; anything else is a find.
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Final
from unittest.mock import patch

import numpy as np

from stream.bundle.errors import BundleError
from stream.bundle.experiment import read_experiment
from stream.bundle.load import load_bundle
from stream.core.activity import ActivityBatch
from stream.core.events import EventTypes
from stream.core.seam import Recommender
from stream.core.state import StateError, decode_states
from stream.core.statistics import ItemStatistics
from stream.wire.activity import decode_activity, encode_activity
from stream.wire.decode import EventDecoder
from stream.wire.encode import dead_letter
from stream.wire.errors import WireError
from stream.wire.items import decode_items
from stream.worker.follower import read_snapshot
from tests.bundle.damage import replace_file, rewrite
from tests.bundle.models import write_ranker
from tests.wire.malformed import KINDS, make
from tests.wire.records import NOW_MS, FakeRecord, event_fields

__all__ = ["TARGETS", "Target"]

_N_GOOD: Final = 10


@dataclass(frozen=True, slots=True)
class Target:
    """Good inputs, and the check of any."""

    seeds: Callable[[], list[bytes]]
    check: Callable[[bytes], None]


@cache
def _bundle() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="polytempo-fuzz-")) / "ranker"
    write_ranker(folder)
    return folder


@cache
def _recommender() -> Recommender:
    bundle = load_bundle(_bundle())
    return Recommender(bundle.features, bundle.scorer, bundle.vocabulary)


def _good(n: int = _N_GOOD) -> list[FakeRecord]:
    records = [event_fields(user_id=f"u{row}", item_id=f"i{row % 3}", ts_ms=NOW_MS - row) for row in range(n)]
    return [
        FakeRecord(str(fields["user_id"]).encode(), json.dumps(fields).encode(), row)
        for row, fields in enumerate(records)
    ]


def _any_checksum() -> AbstractContextManager[object]:
    """As if the checksums in archives had been made to fit: few changed bytes would be read otherwise."""
    return patch.object(zipfile.ZipExtFile, "_update_crc", lambda *_: None)


# -- events ------------------------------------------------------------------------------------------------------------


def _event_seeds() -> list[bytes]:
    full = event_fields(
        event_id="e", value=3.5, session_id="s", context={"device": "phone", "n": 1, "b": True, "z": None}
    )
    asked = event_fields(event_type="request", item_id=..., n=3, exclude=["a"], only=["b", "c"])
    values = [make(kind, Random(kind)) for kind in KINDS]
    return [
        *(
            json.dumps(each).encode()
            for each in (event_fields(), full, asked, event_fields(event_type="forget", item_id=...))
        ),
        *(value for _, value in values if value is not None and len(value) < 4096),
    ]


def _check_event(data: bytes) -> None:
    """Every record is a row or refused, alone as among others, and a dead letter can be made of what is refused."""
    decoder = EventDecoder(EventTypes(), ("device",))
    try:
        user = json.loads(data)["user_id"]
        key = user.encode()
    except Exception:  # noqa: BLE001 - any bytes will do for a key
        key = data[:20]
    alone = decoder.decode([FakeRecord(key, data, _N_GOOD)])
    among = decoder.decode([*_good(), FakeRecord(key, data, _N_GOOD)])
    assert len(alone.batch) + len(alone.rejected) == 1
    assert len(among.batch) == _N_GOOD + len(alone.batch)
    assert [each.reason for each in among.rejected] == [each.reason for each in alone.rejected]
    for each in alone.rejected:
        json.loads(dead_letter(each, "events", 0))
    decoder.decode([FakeRecord(data, data)])  # the same bytes as a key


# -- item activity -----------------------------------------------------------------------------------------------------


def _activity(n: int, seed: int) -> ActivityBatch:
    recommender, view = _recommender(), ItemStatistics(_recommender().spec.statistics)
    decoded = EventDecoder(recommender.spec.types, recommender.spec.statistics.segment_fields).decode(_good(n))
    states = decode_states(recommender.state_spec, [None] * len(decoded.batch.users))
    return recommender.step(states, decoded.batch, view, source=f"events/{seed}").activity


def _check_activity(data: bytes) -> None:
    """WireError, or a batch that statistics can take and that is encoded to what decodes to the same."""
    try:
        batch = decode_activity(data)
    except WireError:
        return
    view = ItemStatistics(_recommender().spec.statistics)
    view.apply(batch)
    view.refresh()
    again = decode_activity(encode_activity(batch))
    assert (again.source, again.item_ids, again.ts_ms.tolist()) == (batch.source, batch.item_ids, batch.ts_ms.tolist())


# -- items -------------------------------------------------------------------------------------------------------------


def _item_seeds() -> list[bytes]:
    full = {
        "item_id": "i1",
        "category": "c",
        "title": "t",
        "available": False,
        "published_ms": NOW_MS,
        "attributes": {"a": 1},
    }
    return [json.dumps(each).encode() for each in ({}, full, {"title": "x" * 50}, {"attributes": {"deep": [1]}})]


def _check_items(data: bytes) -> None:
    """Every record is an item, a removal or refused."""
    for record in (FakeRecord(b"i1", data), FakeRecord(data, b"{}"), FakeRecord(data, None)):
        decoded = decode_items([record])
        assert len(decoded.items) + len(decoded.rejected) == 1


# -- bundles -----------------------------------------------------------------------------------------------------------

_FILES: Final = ("manifest.json", "model.onnx", "parity.npz", "vocabulary.json")


def _bundle_seeds() -> list[bytes]:
    names = [name for name in _FILES if (_bundle() / name).exists()]
    return [bytes([_FILES.index(name)]) + (_bundle() / name).read_bytes() for name in names]


def _check_bundle(data: bytes) -> None:
    """BundleError, or a bundle: with one file replaced, as it is and with the manifest's hashes made to fit."""
    name = _FILES[data[0] % len(_FILES)] if data else _FILES[0]
    with tempfile.TemporaryDirectory(prefix="polytempo-fuzz-") as scratch:
        folder = Path(scratch) / "bundle"
        shutil.copytree(_bundle(), folder)
        (folder / name).write_bytes(data[1:])
        for sealed in (False, True):
            if sealed:
                _reseal(folder, name, data[1:])
            with _any_checksum() if sealed else nullcontext():
                try:
                    load_bundle(folder)
                except BundleError:
                    continue


def _reseal(folder: Path, name: str, content: bytes) -> None:
    """As an attacker would who may write all files: the checks behind the hashes must hold as well."""
    try:
        if name == "manifest.json":
            rewrite(folder, lambda _: None)
        else:
            replace_file(folder, name, content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return


# -- states ------------------------------------------------------------------------------------------------------------


def _state_seeds() -> list[bytes]:
    recommender, view = _recommender(), ItemStatistics(_recommender().spec.statistics)
    batch = EventDecoder(recommender.spec.types, recommender.spec.statistics.segment_fields).decode(_good()).batch
    states = decode_states(recommender.state_spec, [None] * len(batch.users))
    after = recommender.step(states, batch, view, source="events/0").folded.states
    other = decode_states(_other_spec(), [None]).tobytes()
    return [after[0].tobytes(), after[1].tobytes(), other]


def _other_spec() -> Any:
    from dataclasses import replace

    return replace(_recommender().state_spec, n_ring=7, n_ids=5)


def _check_state(data: bytes) -> None:
    """StateError, or a record with which an event can be answered, however strange it is."""
    recommender = _recommender()
    view = ItemStatistics(recommender.spec.statistics)
    batch = EventDecoder(recommender.spec.types, recommender.spec.statistics.segment_fields).decode(_good(1)).batch
    try:
        states = decode_states(recommender.state_spec, [data])
    except StateError:
        return
    with np.errstate(all="ignore"):
        recommender.step(states, batch, view, source="events/0")


# -- snapshots ---------------------------------------------------------------------------------------------------------


def _snapshot_seeds() -> list[bytes]:
    view = ItemStatistics(_recommender().spec.statistics)
    view.apply(_activity(_N_GOOD, 0))
    view.refresh()
    file = io.BytesIO()
    np.savez(file, **view.snapshot())  # type: ignore[arg-type]
    return [file.getvalue()]


def _check_snapshot(data: bytes) -> None:
    """ValueError, or statistics that go on counting; also where the checksums of the archive are right."""
    for unsealed in (nullcontext(), _any_checksum()):
        with unsealed:
            try:
                view, _ = read_snapshot(io.BytesIO(data), _recommender().spec.statistics)
            except ValueError:
                continue
        view.apply(_activity(_N_GOOD, 1))
        view.refresh()


# -- experiments -------------------------------------------------------------------------------------------------------


def _experiment_seeds() -> list[bytes]:
    variant = {"name": "a", "bundle": "models/a", "weight": 1}
    document = {"name": "test", "variants": [variant, {**variant, "name": "b"}]}
    lines = ['name = "test"', *(f'[[variants]]\nname = "{name}"\nbundle = "x"\nweight = 0.5' for name in "ab")]
    return [b"j" + json.dumps(document).encode(), b"t" + "\n".join(lines).encode()]


def _check_experiment(data: bytes) -> None:
    """BundleError, or an experiment."""
    with tempfile.TemporaryDirectory(prefix="polytempo-fuzz-") as scratch:
        file = Path(scratch) / ("experiment.json" if data[:1] == b"j" else "experiment.toml")
        file.write_bytes(data[1:])
        try:
            read_experiment(file)
        except BundleError:
            return


TARGETS: Final = {
    "decode": Target(_event_seeds, _check_event),
    "activity": Target(lambda: [encode_activity(_activity(n, n)) for n in (1, 3, _N_GOOD)], _check_activity),
    "items": Target(_item_seeds, _check_items),
    "bundle": Target(_bundle_seeds, _check_bundle),
    "state": Target(_state_seeds, _check_state),
    "snapshot": Target(_snapshot_seeds, _check_snapshot),
    "experiment": Target(_experiment_seeds, _check_experiment),
}
