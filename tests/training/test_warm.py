"""Weights that are taken over: by name, items by their ids; what is new starts as the average."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stream.bundle.load import read_manifest
from stream.core.scales import DEFAULT_SCALES
from tests.worker.bundles import bundle
from training.config import LstmTraining, MovingAverageTraining, SequenceTraining, TempoTraining, TransformerTraining
from training.sequence_models import build, item_tables
from training.warm import Start, keep_weights, read_start, weights_path

OLD, NEW = ["a", "b", "c"], ["c", "x", "a", "y"]
MODELS = [
    MovingAverageTraining(d=8),
    LstmTraining(d=8),
    TransformerTraining(d=8),
    TempoTraining(d=8, n_scales=2),
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_known_items_keep_their_rows_whatever_their_new_place_and_new_ones_are_the_average(
    model: SequenceTraining,
) -> None:
    """
    old   a b c
    new   c x a y     x and y: (c + a) / 2
    """
    old = build(model, len(OLD), n_history=8, scales=DEFAULT_SCALES)
    new = build(model, len(NEW), n_history=8, scales=DEFAULT_SCALES)
    tables = item_tables(model, n_history=8, scales=DEFAULT_SCALES)
    assert "events.items.weight" in tables or "items.weight" in tables
    before = {name: tensor.clone() for name, tensor in old.state_dict().items()}
    assert Start(before, OLD).give(new, NEW, tables) == 2
    for name, tensor in new.state_dict().items():
        if not tensor.is_floating_point():
            continue
        if name not in tables:
            assert torch.equal(tensor, before[name]), name
            continue
        first = len(tensor) - len(NEW)
        was, now = before[name][first:], tensor[first:]
        assert torch.equal(now[0], was[2])
        assert torch.equal(now[2], was[0])
        torch.testing.assert_close(now[1], (was[0] + was[2]) / 2)
        torch.testing.assert_close(now[3], now[1])
        assert torch.equal(tensor[:first], before[name][:first])


def test_as_many_items_in_another_order_are_not_taken_for_the_same() -> None:
    model = TempoTraining(d=8, n_scales=2)
    old, new = (build(model, 3, n_history=8, scales=()) for _ in range(2))
    weights = {name: tensor.clone() for name, tensor in old.state_dict().items()}
    Start(weights, OLD).give(new, OLD[::-1], item_tables(model, n_history=8, scales=()))
    items = new.state_dict()["events.items.weight"]
    assert torch.equal(items[1:], weights["events.items.weight"][1:].flip(0))


def test_what_has_another_shape_or_no_item_in_common_keeps_its_own() -> None:
    model = TempoTraining(d=8, n_scales=2)
    new = build(model, 3, n_history=8, scales=())
    tables = item_tables(model, n_history=8, scales=())
    before = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    wide = build(TempoTraining(d=16, n_scales=2), 3, n_history=8, scales=()).state_dict()
    same_size = build(model, 3, n_history=8, scales=()).state_dict()
    Start({"events.items.weight": wide["events.items.weight"]}, OLD).give(new, OLD, tables)
    Start({"events.items.weight": same_size["events.items.weight"]}, OLD).give(new, ["q", "r", "s"], tables)
    for name, tensor in new.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_weights_are_those_of_the_bundle_that_they_name(tmp_path: Path) -> None:
    folder = tmp_path / "ranker"
    folder.symlink_to(bundle("ranker"))
    assert read_start(folder) is None
    manifest = read_manifest(folder)
    module = torch.nn.Linear(2, 2)
    keep_weights(folder, manifest, module, OLD)
    found = read_start(folder)
    assert found is not None
    assert found.vocabulary == OLD
    assert torch.equal(found.weights["weight"], module.weight)

    other = tmp_path / "other"
    other.symlink_to(bundle("ranker-2"))
    weights_path(other).write_bytes(weights_path(folder).read_bytes())
    assert read_start(other) is None
